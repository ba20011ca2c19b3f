"""Statements that every engine of these tests understands in its own words, and how to run one."""

from typing import Any

from queryexport.engines import ConnectionSettings
from queryexport.source import open_query

NUMBERS = {
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {})"
    " SELECT n FROM s",
    "duckdb": "SELECT n FROM range(1, {} + 1) AS r(n)",
    "postgresql": "SELECT generate_series(1, {}) AS n",
    "mysql": "SELECT seq AS n FROM seq_1_to_{}",
}
ENDLESS = {
    "sqlite": NUMBERS["sqlite"].format(10**12) + " WHERE n < 0",
    "duckdb": "SELECT count(*) AS n FROM range(1000000000000) WHERE range % 7 = 9",
    "postgresql": "SELECT 'endless' AS n FROM pg_sleep(60)",
    "mysql": "SELECT 'endless' AS n, SLEEP(60) AS s",
}
# Every batch stays under a second, all of them together take more than five.
SLOW_ROWS = {
    "postgresql": "SELECT generate_series(1, 10000) AS n, pg_sleep(0.0005) AS s",
    "mysql": "SELECT seq AS n, SLEEP(0.0005) AS s FROM seq_1_to_10000",
}
WIDE = {
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {})"
    " SELECT n, printf('%.1000c', 'x') AS wide FROM s",
    "duckdb": "SELECT n, repeat('x', 1000) AS wide FROM range(1, {} + 1) AS r(n)",
    "postgresql": "SELECT generate_series(1, {}) AS n, repeat('x', 1000) AS wide",
    "mysql": "SELECT seq AS n, REPEAT('x', 1000) AS wide FROM seq_1_to_{}",
}


def numbers(settings: ConnectionSettings, count: int) -> str:
    return NUMBERS[settings.engine].format(count)


def rows_of(settings: ConnectionSettings, sql: str, **values: Any) -> list[tuple]:
    with open_query(settings, sql, values) as result:
        return [tuple(row) for batch in result.batches for row in batch]
