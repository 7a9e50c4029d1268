"""Money moves exactly once: accounts live in the file where kworker records what it did.

    cd examples/05_effectively_once
    kworker dev bank:app
    kworker publish transfers '{"from_account": "ann", "to_account": "bob", "amount": 5}'
    sqlite3 .kworker/dev/bank.db 'SELECT * FROM account'      # or any other SQLite viewer

A handler that takes a `Transaction` writes in the very transaction that records its message. Kill
the worker whenever you like, kill -9 included: afterwards each transfer was made once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from kworker import App, Context, Reject, Transaction

app = App("bank")


@dataclass
class Transfer:
    from_account: str
    to_account: str
    amount: int


@app.handler(os.environ.get("TRANSFERS", "transfers"), name="transfer")
def transfer(order: Transfer, tx: Transaction, ctx: Context) -> None:
    if order.amount <= 0:
        raise Reject(f"an amount of {order.amount}")
    tx.execute("CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY, balance INTEGER)")
    tx.execute("CREATE TABLE IF NOT EXISTS moved (from_account, to_account, amount)")
    for name, change in ((order.from_account, -order.amount), (order.to_account, order.amount)):
        tx.execute(
            "INSERT INTO account VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET balance = balance + excluded.balance",
            (name, change),
        )
    tx.execute(
        "INSERT INTO moved VALUES (?, ?, ?)",
        (order.from_account, order.to_account, order.amount),
    )
    # Part of the same transaction; sent afterwards, at least once, under one id.
    ctx.publish(os.environ.get("RECEIPTS", "receipts"), {"moved": order.amount})
