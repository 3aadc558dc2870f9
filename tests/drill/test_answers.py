"""Which requests met which fault, and how long they waited."""

from __future__ import annotations

from payflow.stack.drill.answers import CALM, FELT_SECONDS, Asked, Times, Window, by_fault

SLOW = Window("slow", 100.0, 105.0)
SILENT = Window("silent", 104.0, 106.0)


def test_a_request_met_each_fault_that_it_was_under_way_in() -> None:
    before, within, in_both, after = (Asked(began, 0.5) for began in (99.0, 101.0, 104.5, 120.0))
    met = by_fault([before, within, in_both, after], [SLOW, SILENT])
    assert {kind: times.requests for kind, times in met.items()} == {"slow": 2, "silent": 1, CALM: 2}


def test_a_fault_is_felt_by_who_waited_before_it_and_who_came_just_after() -> None:
    waited, came, late = Asked(90.0, 20.0), Asked(105.0 + FELT_SECONDS / 2, 0.1), Asked(107.0, 0.1)
    assert by_fault([waited, came, late], [SLOW])["slow"].requests == 2


def test_times_are_those_of_answers_and_refusals_are_counted() -> None:
    asked = [Asked(101.0, n / 100) for n in range(1, 101)]
    asked += [Asked(101.0, 0.05, "503 service_unavailable")] * 2 + [Asked(101.0, 10.0, "ReadTimeout")]
    assert by_fault(asked, [SLOW])["slow"] == Times(
        requests=103,
        p50_seconds=0.5,
        p95_seconds=0.95,
        max_seconds=1.0,
        refusals={"503 service_unavailable": 2, "ReadTimeout": 1},
    )


def test_without_any_answer_there_are_no_times() -> None:
    met = by_fault([Asked(101.0, 10.0, "ReadTimeout")], [SLOW])
    assert (met["slow"].requests, met["slow"].max_seconds) == (1, 0.0)
