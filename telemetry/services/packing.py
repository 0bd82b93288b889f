"""Packed days: one row for each series and day of UTC, with arrays of its times and numbers."""

_PACKED_UNTIL = "(SELECT packed_until FROM telemetry_rollupstate)"
# When a number of a packed day was measured. Whole numbers of microseconds, so that nothing is rounded.
_TIME = "p.day + (u.ms * 1000::bigint + coalesce(u.us, 0)) * interval '1 microsecond'"
_UNPACKED = "unnest(p.offsets, p.micros, p.numbers) AS u(ms, us, value)"
# A reading that came again after its day was packed, in another message, is in both. Counted and not EXISTS, so
# that it is asked for single rows, of which there are few, and never worked out for the whole table.
_NOT_PACKED = f"""(
    r.time >= coalesce({_PACKED_UNTIL}, '-infinity') OR 0 = (
        SELECT count(*) FROM telemetry_packedday p CROSS JOIN LATERAL {_UNPACKED}
        WHERE p.series_id = r.series_id AND p.day = date_trunc('day', r.time, 'UTC')
            AND r.value = ANY(p.numbers) AND u.value = r.value AND {_TIME} = r.time
    )
)"""  # noqa: S608 (constants)


def numbers(which: str, start: str, stop: str) -> str:
    """SQL of all numbers and booleans with start ≤ time < stop, packed or not: `(series_id, time, value)`.

    A subquery in brackets, without an order. `which` is what follows `series_id`, as `= s.id` or
    `= ANY(%(series)s)`; `start` and `stop` are SQL of a timestamptz, where '-infinity' and 'infinity' will do.
    All of it is one snapshot: while a day is being packed it is seen either way, and once.
    """
    return f"""(
        SELECT r.series_id, r.time, r.value FROM telemetry_reading r
        WHERE r.series_id {which} AND r.text IS NULL AND r.time >= {start} AND r.time < {stop} AND {_NOT_PACKED}
        UNION ALL
        SELECT p.series_id, {_TIME}, u.value FROM telemetry_packedday p CROSS JOIN LATERAL {_UNPACKED}
        WHERE p.series_id {which} AND p.day > {start} - interval '24 hours' AND p.day < {stop}
            AND {_TIME} >= {start} AND {_TIME} < {stop}
    )"""  # noqa: S608 (the caller's own SQL)
