"""Positions, points in time and rates as options take them."""

from __future__ import annotations

from typing import Any

import click

from .. import durations, offsets
from ..clock import SystemClock


class Position(click.ParamType[offsets.Position]):
    """A position in a log: earliest, latest, an offset, +N, -N, a time, or -2h."""

    name = "POSITION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, offsets.Position):
            return value
        try:
            return offsets.parse(value, SystemClock.wall())
        except ValueError as error:
            self.fail(str(error))


class Moment(click.ParamType[float]):
    """A point in time: ISO 8601 (UTC unless it says otherwise), or how long ago, as -2h."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, float):
            return value
        try:
            return offsets.moment(value, SystemClock.wall())
        except ValueError as error:
            self.fail(str(error))


class Rate(click.ParamType[float]):
    """How many a second: 100/s, 30/m."""

    name = "RATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, float):
            return value
        try:
            return durations.rate(value)
        except ValueError as error:
            self.fail(str(error))
