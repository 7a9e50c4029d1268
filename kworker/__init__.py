"""kworker: workers on Kafka that lose nothing and repeat nothing they remember."""
