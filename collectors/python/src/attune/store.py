"""The daemon's history as data frames: jobs, trials, anomalies and heat maps.

Read-only, also while the daemon writes. `store/README.md` has the views and what their columns
mean. Needs pandas.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from attune import paths
from attune.values import METRICS, floats

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 5
"""The version of the store's schema that this reads (`store/migrations`)."""

HEAT_MAPS = (*METRICS, "mean", "deviation", "difference", "divergence")
"""What `History.heat_map` shows: `env/observation.h` and `env/meter.h` say what each is."""

_APPLICATION_ID = 0x6174746E


class HistoryError(RuntimeError):
    """A history that cannot be read; one line that says which, why and what to do."""


class History:
    """One store, read anew by each call. Usable from any thread.

    Args:
        path: Of the store, `attune.db`, or of the state directory that it is in.

    Raises:
        HistoryError: Where there is no store, or one that this cannot read.
    """

    def __init__(self, path: Path) -> None:
        self.path = paths.store_in(path) if path.is_dir() else path
        with closing(self._open()):
            pass

    def jobs(self) -> pd.DataFrame:
        """The jobs, oldest first, one row each: the columns of the view history_jobs."""
        jobs = self.sql("SELECT * FROM history_jobs ORDER BY job")
        return jobs.assign(seed=jobs["seed"].astype("int64").astype("uint64"))  # kept signed

    def trials(
        self, job: int | None = None, *, decider: str | None = None, ack: str | None = None
    ) -> pd.DataFrame:
        """The trials in their order, one row each: the columns of the view history_trials.

        Args:
            job: Only of this one, by its number.
            decider: Only decided by it, such as "network" or "external".
            ack: Only with this outcome: none, pending, applied, rejected or expired.
        """
        wanted = {"job": job, "decider": decider, "ack": ack}
        wanted = {field: value for field, value in wanted.items() if value is not None}
        where = " AND ".join(f"{field} = ?" for field in wanted) or "true"
        return self.sql(
            f"SELECT * FROM history_trials WHERE {where} ORDER BY trial", list(wanted.values())
        )

    def anomalies(self, job: int | None = None) -> pd.DataFrame:
        """Where and since when heads attend abnormally: the columns of history_anomalies."""
        return self.sql(
            "SELECT * FROM history_anomalies WHERE ?1 IS NULL OR job = ?1 "
            "ORDER BY job, first_step, site, head",
            [job],
        )

    def heat_map(self, job: int, metric: str = "entropy") -> pd.DataFrame:
        """A measurement of every head over a job's windows.

        Args:
            job: The job's number.
            metric: One of `HEAT_MAPS`.

        Returns:
            A row for each head, with the index (site, head), and a column for each window, named
            by its last step. NaN where the head was not active.

        Raises:
            ValueError: For another metric.
            HistoryError: Where there is no such job.
        """
        if metric not in HEAT_MAPS:
            raise ValueError(f"there is no metric '{metric}'; use one of {', '.join(HEAT_MAPS)}")
        pandas = _pandas()
        with closing(self._open()) as connection:
            sites = connection.execute(
                "SELECT name, heads FROM sites WHERE job = ? ORDER BY position", [job]
            ).fetchall()
            windows = connection.execute(
                f"SELECT last_step, active, {'metrics' if metric in METRICS else metric} "
                "FROM windows WHERE job = ? ORDER BY window",
                [job],
            ).fetchall()
        if not sites:
            raise HistoryError(f"{self.path} has no job {job}; see attune jobs")
        heads_of_sites = [(name, head) for name, heads in sites for head in range(heads)]
        # A job that went on from a checkpoint has windows that end at the same step.
        return pandas.DataFrame(
            [_column(metric, active, values) for _, active, values in windows],
            index=pandas.Index([step for step, _, _ in windows], name="step"),
            columns=pandas.MultiIndex.from_tuples(heads_of_sites, names=["site", "head"]),
        ).T

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> pd.DataFrame:
        """The answer to a question of your own, in SQLite's dialect.

        Columns whose name ends in `_at` become times (UTC).

        Raises:
            HistoryError: For what SQLite refuses, writing too.
        """
        pandas = _pandas()
        rows, names = self._ask(query, parameters)
        frame = pandas.DataFrame.from_records(rows, columns=names)
        for name in names:
            if name.endswith("_at"):
                frame[name] = pandas.to_datetime(frame[name], utc=True)
        return frame

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """As `sql`, but without pandas: the rows as SQLite gives them."""
        return self._ask(query, parameters)[0]

    def _ask(
        self, query: str, parameters: Sequence[Any]
    ) -> tuple[list[tuple[Any, ...]], list[str]]:
        with closing(self._open()) as connection:
            try:
                cursor = connection.execute(query, parameters)
                rows = cursor.fetchall()
            except sqlite3.Error as error:
                raise HistoryError(f"{self.path}: {error}") from None
        return rows, [column[0] for column in cursor.description or ()]

    def _open(self) -> sqlite3.Connection:
        if not self.path.exists():
            raise HistoryError(
                f"there is no history at {self.path}; attuned makes it, or give another path"
            )
        try:
            connection = sqlite3.connect(
                f"file:{quote(str(self.path.absolute()))}?mode=ro", uri=True
            )
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            schema = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise HistoryError(f"{self.path} is no history of attune: {error}") from None
        fault = None
        if application != _APPLICATION_ID:
            fault = "is the database of another program"
        elif schema > SCHEMA:
            fault = f"has schema {schema} and this attune reads {SCHEMA}; install a newer attune"
        elif schema < SCHEMA:
            fault = f"has schema {schema} and this attune reads {SCHEMA}; start its attuned once"
        if fault:
            connection.close()
            raise HistoryError(f"{self.path} {fault}")
        return connection


def history(path: str | Path | None = None) -> History:
    """The history of the daemon.

    Args:
        path: Of the store, `attune.db`, or of the state directory that it is in (default:
            $STATE_DIRECTORY, $XDG_STATE_HOME/attune or ~/.local/state/attune).

    Raises:
        HistoryError: Where there is no store, or one that this cannot read.
    """
    return History(Path(path) if path is not None else paths.store_in(paths.state_directory()))


def _column(metric: str, active: bytes, values: bytes) -> list[float]:
    """One window's values by head; NaN for heads that were not active."""
    numbers = floats()
    numbers.frombytes(values)
    if metric in METRICS:
        numbers = numbers[METRICS.index(metric) :: len(METRICS)]
    return [number if on else float("nan") for number, on in zip(numbers, active, strict=True)]


def _pandas() -> Any:
    try:
        import pandas
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "attune.history gives data frames: install pandas (pip install pandas)"
        ) from None
    return pandas
