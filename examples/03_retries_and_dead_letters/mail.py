"""What becomes of a message that fails: every way out of a handler, and the way back.

    cd examples/03_retries_and_dead_letters
    kworker dev mail:app
                                                           (in a second terminal)
    kworker publish mails '{"to": "ann@example.com"}'      handled
    kworker publish mails '{"to": "slow@example.com"}'     fails twice, then works
    kworker publish mails '{"to": "busy@example.com"}'     called again after two seconds
    kworker publish mails '{"to": "me@example.com"}'       skipped
    kworker publish mails '{"to": "bob@"}'                 rejected: a dead letter at once
    kworker publish mails 'no JSON'                        undecodable: a dead letter
    kworker publish mails '{"to": "down@example.com"}'     fails always: a dead letter in the end

    kworker dlq list mail:app

Now set SERVER_IS_DOWN to False: the worker starts again by itself. Then

    kworker dlq replay mail:app --error ConnectionError --execute
"""

from __future__ import annotations

from pydantic import BaseModel

from kworker import App, Message, Reject, Retry, RetryLater, Skip

SERVER_IS_DOWN = True

app = App("mail")


class Mail(BaseModel):
    to: str


# Two calls in the process, then one through each retry topic, then the dead-letter topic.
@app.handler("mails", retry=Retry(attempts=2, delays=["1s", "3s"], never=(PermissionError,)))
def send(mail: Mail, message: Message) -> None:
    if mail.to.endswith("@"):
        raise Reject(f"{mail.to!r} is no address")
    if mail.to.startswith("me@"):
        raise Skip("that is us")
    if mail.to.startswith("busy@") and message.attempt == 1:
        raise RetryLater("2s", "the server asked us to come again")
    if mail.to.startswith("slow@") and message.attempt < 3:
        raise TimeoutError("the server did not answer")
    if mail.to.startswith("down@") and SERVER_IS_DOWN:
        raise ConnectionError("the server is down")
    print(f"sent to {mail.to} at attempt {message.attempt}", flush=True)
