"""Days and their parts as Excel counts them, written so that every microsecond can be read back."""

from datetime import datetime, timedelta

DAY_ZERO = datetime(1899, 12, 30)  # noqa: DTZ001  Excel's days have no zone.
FIRST_SAFE_DAY = 61  # 1 March 1900: Excel believes in a 29 February before it.
LAST_DAY = 2_958_465  # 31 December 9999.

# Twelve decimals of a day tell every microsecond of it. Zeros beyond them change no number: up to
# two are the caller's, and three more say that the time was shifted.
DECIMALS = 12
SHIFTED = 3
# Most readers round to milliseconds. So that none of them arrives at the next day, what is left of
# the last one is written as a time before, at which a far date's rounding (40 microseconds) matters
# no more.
END_OF_DAY = timedelta(hours=24, microseconds=-550) // timedelta(microseconds=1)
SHIFT = 600
# LibreOffice cuts what others round: of a time a little too early it shows the second before. If
# the nearest decimals were written, that would be a quarter of all; with three units more, it is
# none. What a double holds exactly, parts of 1/4096 of a day (in microseconds), needs no more.
ROUNDED_UP = 3
EXACTLY_HELD = 21_093_750


def serial(value: timedelta, zeros: int = 0) -> str:
    """The days to twelve decimals, followed by so many zeros, two at most."""
    part = value.seconds * 1_000_000 + value.microseconds
    if part >= END_OF_DAY:
        part, zeros = part - SHIFT, zeros + SHIFTED
    # 10**12 units for the 86,400,000,000 microseconds of a day.
    units = part * 625 // 54 + (ROUNDED_UP if part % EXACTLY_HELD else 0)
    return f"{value.days}.{units:012d}{'00000'[:zeros]}"


def read(written: str) -> tuple[timedelta, int]:
    """What `serial` was given, or a whole number of days."""
    days, _, decimals = written.partition(".")
    part = int(decimals[:DECIMALS] or 0) * 54 // 625
    zeros = max(len(decimals) - DECIMALS, 0)
    if zeros >= SHIFTED:
        part, zeros = part + SHIFT, zeros - SHIFTED
    return timedelta(int(days), 0, part), zeros
