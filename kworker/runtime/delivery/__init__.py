"""The delivery modes: how what became of messages is carried out, step by step."""
