import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from trafficlight.results.events import CaseWaits, Expected, Log, Measurement, Problem, Upload
from trafficlight.results.reports.html import report_html

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab


class Page(HTMLParser):
    """Collects tags, links and text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [value for key in ("href", "src") if (value := values.get(key))]
        self.ids += [value for key in ("id",) if (value := values.get(key))]

    def handle_data(self, data: str) -> None:
        self.text += data


def _page(lab: "Lab") -> Page:
    return Page(report_html(lab.record).decode())


def test_a_page_of_everything(lab: "Lab") -> None:
    lab.start()
    good = lab.plan()
    lab.run(good)
    bad = lab.plan({"alice": "Nio", "bob": "HydrogenWeb"})
    lab.prepare(bad)
    lab.act(bad, "bob", "verify_message_in_timeline", 3, fails={"type": "action", "details": "not there"})
    lab.append(
        Upload(
            case=bad,
            attempt=1,
            role="bob",
            name="my shot #1.png",
            path="clients/bob/my shot #1.png",
            size=5,
            media_type="image/png",
        )
    )
    lab.append(Upload(case=bad, attempt=1, role="bob", name="cut.webm", path="clients/bob/cut.webm"))
    lab.append(Measurement(case=bad, attempt=1, name="delay", value=3.5, unit="ms"))
    lab.end_case(bad, "failure", "it is not there", traceback="Traceback: here")
    lab.append(CaseWaits(case=lab.plan({"alice": "ElementIos"}), reason="no element-ios"))
    lab.append(Problem(file="x_test.py", line=3, problem="does not import", hint=""))
    lab.end(exit_code=1)
    page = _page(lab)
    for said in (
        "1 of 3 cases failed",
        "it is not there",
        "Traceback: here",
        "verify_message_in_timeline",
        "3.5 ms",
        "no element-ios",
        "x_test.py:3",
        "does not import",
    ):
        assert said in page.text
    assert any(link.endswith("clients/bob/my%20shot%20%231.png") for link in page.links)
    assert any(link.endswith("servers/server/homeserver.log") for link in page.links)
    assert any(link.endswith("clients/bob/cut.webm") for link in page.links)
    assert "empty" in page.text
    assert "video" not in page.tags


def test_the_page_needs_nothing_but_itself(lab: "Lab") -> None:
    lab.start()
    lab.run(lab.plan(), "failure", "https://example.org/script.js")
    lab.end()
    page = _page(lab)
    assert not {"script", "iframe", "object", "form"} & set(page.tags)
    assert page.tags.count("link") == 1, "the style sheet, for sites that forbid the one inside"
    assert "./report.css" in page.links
    assert all(link.startswith(("./", "#")) for link in page.links)
    assert not re.search(r"url\(|@import", report_html(lab.record).decode())
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    assert anchors <= set(page.ids)


def test_nothing_that_is_shown_becomes_markup(lab: "Lab") -> None:
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\x00\ud800"
    lab.start(host=evil, versions={evil: evil}, configuration={evil: evil}, command=evil)
    case_id = lab.plan({"alice": evil}, {"server": evil}, suite=evil, parameters={"x": evil}, case=evil)
    lab.prepare(case_id)
    lab.append(Upload(case=case_id, attempt=1, role=evil, name=evil, path=f"javascript:{evil}", size=1))
    lab.append(Log(case=case_id, attempt=1, level=evil, message=evil))
    lab.append(Measurement(case=case_id, attempt=1, name=evil, value=1.5, unit=evil))
    lab.end_case(
        case_id,
        "failure",
        evil,
        traceback=evil,
        phase=evil,
        expected=Expected(evil, "javascript:alert(1)"),
    )
    lab.append(Problem(file=evil, line=None, problem=evil, hint=evil))
    page = _page(lab)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert all(link.startswith(("./", "#")) for link in page.links)


def test_headlines(lab: "Lab") -> None:
    lab.start()
    assert "Nothing ran" in _page(lab).text
    case_id = lab.plan()
    lab.run(case_id)
    assert "The case succeeded" in _page(lab).text
    assert "not ended when this was written" in _page(lab).text
    lab.run(lab.plan({"alice": "A"}), "error", "broken")
    assert "1 of 2 cases ended in error" in _page(lab).text


@pytest.mark.parametrize("strict", [False, True])
def test_warnings_and_what_they_mean_for_a_strict_session(lab: "Lab", strict: bool) -> None:
    lab.start(warnings=("there is no test in x",), strict=strict)
    lab.run(lab.plan())
    page = _page(lab).text
    assert "Warnings" in page
    assert "there is no test in x" in page
    assert ("which a strict session must not have" in page) is strict
    assert ("The case succeeded" in page) is not strict


def test_thousands_of_successes_stay_readable(lab: "Lab") -> None:
    lab.start()
    for number in range(2_000):
        lab.run(
            lab.plan({"alice": "Nio"}, parameters={"n": number}),
            "failure" if number == 7 else "success",
            "why",
        )
    content = report_html(lab.record)
    assert len(content) < 2_000_000
    assert len(_page(lab).ids) == len(set(_page(lab).ids))


def test_the_heat_map_links_to_cases_without_a_script(lab: "Lab") -> None:
    lab.start()
    for bob in ("Nio", "Web"):
        lab.run(lab.plan({"alice": "Nio", "bob": bob}), "failure" if bob == "Web" else "success", "no")
    page = _page(lab)
    assert "Who talks to whom" in page.text
    assert "Tests and clients" in page.text
    assert page.text.index("Causes") < page.text.index("Who talks to whom") < page.text.index("Cases")
    assert page.links.count("#case-2") > page.links.count("#case-1") > 1
