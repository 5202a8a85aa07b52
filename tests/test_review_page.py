"""`r1 review` over real HTTP: verdicts reach the disk at once, hostile rows and requests do nothing."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.verdicts import read_verdicts
from pipeline import cli, review_log
from pipeline.review_log import ReviewLog
from pipeline.review_server import MOST_BYTES, PAGE, ReviewServer
from pipeline.review_session import Session
from pipeline.review_target import resolve
from stages import STAGES
from tests.test_rejection_sampling import candidate
from tests.toy_project import ROOT, toy_row

SCRIPT = "<script>document.title='owned'</script>"


def chain(number: int, text: str = "<think>\nso\n</think>\n<answer>\n4\n</answer>", **columns: Any) -> dict[str, Any]:
    """A row with a chain."""
    return toy_row(number) | {"completion": [{"role": "assistant", "content": text}], "answer": "4"} | columns


def rows_file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "chains.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def session(file: Path, **settings: Any) -> Session:
    target = resolve(file, None, settings.pop("convention", None), STAGES)
    return Session(target, ReviewLog(target.out), **settings)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReviewServer]:
    """Five chains, the third hostile."""
    rows = [chain(n) for n in range(5)]
    hostile = f"<think>{SCRIPT}</think><answer></textarea><img src=x onerror=alert(1)></answer>"
    rows[2] = chain(2, hostile, doubt=SCRIPT, reason=SCRIPT, language="en", provenance={"scores": {SCRIPT: 1.0}})
    made = ReviewServer(session(rows_file(tmp_path, rows), reviewer="li"))
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def ask(server: ReviewServer, name: str = "", body: object = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Status, content and headers; a body is posted as JSON."""
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + name, data, sent), timeout=10) as answer:
            status, content, told = answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        status, content, told = error.code, error.read(), dict(error.headers)
    return status, json.loads(content) if "json" in told["Content-Type"] else content.decode(), told


def state(server: ReviewServer, query: str = "") -> Any:
    return ask(server, f"state?{query}")[1]


def judge(server: ReviewServer, number: int, verdict: str, **more: Any) -> tuple[int, Any]:
    row = state(server, f"at={number}")["row"]
    return ask(server, "verdict", {"key": row["key"], "verdict": verdict, "revision": row["revision"]} | more)[:2]


def said(server: ReviewServer) -> dict[str, str]:
    return {key: str(verdict.verdict) for key, (_, verdict) in read_verdicts(server.session.target.out).items()}


def test_a_review_from_the_first_row_to_the_last(server: ReviewServer) -> None:
    first = state(server)
    assert (first["done"], first["total"], first["row"]["at"]) == (0, 5, 0)
    row = first["row"]
    assert (row["reasoning"], row["answer"], row["gold"], row["fault"]) == ("so", "4", "4", None)
    assert judge(server, 0, "keep")[0] == 200
    assert judge(server, 1, "drop")[0] == 200
    better = "<think>two and two</think><answer>4</answer>"
    assert judge(server, 2, "correct", completion=better)[0] == 200
    assert judge(server, 3, "skip")[1]["counts"] == {"keep": 1, "drop": 1, "correct": 1, "skip": 1}
    assert state(server)["row"]["at"] == 4
    assert state(server, "after=3")["row"]["at"] == 4
    assert state(server, "choice=skip")["row"]["at"] == 3
    assert judge(server, 4, "keep")[0] == 200
    assert state(server)["row"] is None
    assert judge(server, 4, "undo")[1]["done"] == 4
    assert state(server, "after=2")["row"]["at"] == 4
    found = read_verdicts(server.session.target.out)
    assert said(server) == {"row-0": "keep", "row-1": "drop", "row-2": "correct", "row-3": "skip"}
    assert found["row-2"][1].completion == better
    assert all(verdict.reviewer == "li" and verdict.time and verdict.seen for _, verdict in found.values())


def test_hostile_rows_are_text(server: ReviewServer) -> None:
    """No row is in the page itself; they come as JSON, and the page has no way to make markup of text."""
    status, page, headers = ask(server)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = headers["Content-Security-Policy"]
    [nonce] = re.findall(r"script-src 'nonce-([\w-]+)'", policy)
    assert page.count(f'nonce="{nonce}"') == 2
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert nonce not in ask(server)[1]
    source = PAGE.read_text(encoding="utf-8")
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
        "srcdoc",
        "DOMParser",
    ):
        assert way not in source
    assert not re.search(r"(src|href)\s*=|https?://|@import|url\(", source), "nothing is loaded"
    row = state(server, "at=2")["row"]
    assert row["reasoning"] == row["reason"] == row["doubts"][0] == SCRIPT
    with urllib.request.urlopen(f"{server.url}state?at=2") as answer:
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert not set(b"<>") & set(answer.read())


def test_requests_from_elsewhere_are_refused(server: ReviewServer) -> None:
    verdict = {"key": "row-0", "verdict": "drop", "revision": 0}
    port = server.server_port
    refused: list[dict[str, str]] = [
        {"Host": "evil.example"},
        {"Host": f"evil.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Host": f"127.0.0.1.evil.example:{port}"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"https://127.0.0.1:{port}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ]
    for headers in refused:
        for name, body in (("", None), ("state", None), ("verdict", verdict)):
            assert ask(server, name, body, **headers)[0] == 403, headers
    assert ask(server, "verdict", verdict, Content_Type="text/plain")[0] == 415
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for path in ("/", "/state", "/x/state", f"/{server.secret}", f"/x/{server.secret}/state", "/../", "*"):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 403, path
        assert server.secret not in answer.read().decode()
    for path in ("passwd", "../../etc/passwd", "verdict"):
        connection.request("GET", f"/{server.secret}/{path}")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (404, b'{"error": "there is no such page"}')
    assert ask(server, "state", {})[0] == 404, "only verdicts are posted"
    assert said(server) == {}
    same = {"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}", "Sec_Fetch_Site": "same-origin"}
    assert ask(server, "verdict", verdict, **same)[0] == 200
    assert server.server_address[0] == "127.0.0.1"


def test_a_request_without_a_host_is_refused(server: ReviewServer) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as plain:
        plain.sendall(f"GET /{server.secret}/ HTTP/1.0\r\n\r\n".encode())
        assert b" 403 " in plain.recv(1000).splitlines()[0]


@pytest.mark.parametrize(
    ("length", "status"), [(str(MOST_BYTES + 1), 413), ("-1", 411), ("x", 411), ("9" * 30, 411), (None, 411)]
)
def test_the_body_is_bounded_before_it_is_read(server: ReviewServer, length: str | None, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest("POST", f"/{server.secret}/verdict")
    connection.putheader("Content-Type", "application/json")
    if length is not None:
        connection.putheader("Content-Length", length)
    connection.endheaders()
    assert connection.getresponse().status == status


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"{", 400, "not JSON"),
        (b"\xff", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        ([], 400, "expected an object"),
        ({"key": "row-0", "verdict": "keep"}, 400, "expected an object with key, verdict, revision"),
        ({"key": "row-0", "verdict": "keep", "revision": True}, 400, "expected an object"),
        ({"key": "row-9", "verdict": "keep", "revision": 0}, 400, "there is no row 'row-9'"),
        ({"key": "row-0", "verdict": "burn", "revision": 0}, 400, "unknown verdict 'burn'"),
        ({"key": "row-0", "verdict": "correct", "revision": 0}, 400, "the corrected text is missing"),
        ({"key": "row-0", "verdict": "correct", "revision": 0, "completion": 3}, 400, "completion must be text"),
        ({"key": "row-0", "verdict": "correct", "revision": 0, "completion": "\ud800"}, 400, "half a character"),
        ({"key": "row-0", "verdict": "correct", "revision": 0, "completion": "4"}, 422, "<think> is missing"),
        (
            {"key": "row-0", "verdict": "correct", "revision": 0, "completion": chain(0)["completion"][0]["content"]},
            422,
            "nothing was changed",
        ),
    ],
)
def test_what_is_no_verdict_is_not_written(server: ReviewServer, body: object, status: int, error: str) -> None:
    found, answer, _ = ask(server, "verdict", body)
    assert (found, error in answer["error"]) == (status, True), answer
    assert server.session.target.out.read_bytes() == b""


@pytest.mark.parametrize("query", ["at=5", "at=-1", "at=x", "at=" + "9" * 5000, "at=²"])
def test_there_is_no_such_row(server: ReviewServer, query: str) -> None:
    assert ask(server, f"state?{urllib.request.quote(query, safe='=')}")[0] == 404
    assert ask(server, "state?after=99")[1]["row"]["at"] == 4, "numbers go round"


def test_two_windows_lose_nothing(tmp_path: Path) -> None:
    """Two processes' worth of sessions on one file, each with several threads at once."""
    file = rows_file(tmp_path, [chain(n) for n in range(60)])
    windows = [session(file, reviewer=name) for name in ("a", "b")]

    def work(window: Session, first: int) -> None:
        for number in range(first, 60, 4):
            body = {"key": f"row-{number}", "verdict": "keep", "revision": 0}
            assert window.judge(json.dumps(body).encode())[0] == 200

    threads = [threading.Thread(target=work, args=(windows[n % 2], n)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_verdicts(windows[0].target.out)) == 60
    assert [w.state(None, None, None)[1]["done"] for w in windows] == [60, 60]


def test_nobody_replaces_a_verdict_that_they_have_not_seen(server: ReviewServer) -> None:
    late = {"key": "row-0", "verdict": "drop", "revision": 0}
    assert judge(server, 0, "keep")[0] == 200
    status, answer, _ = ask(server, "verdict", late)
    assert (status, answer["error"]) == (409, "another window was first: keep by li. Say it again to replace that")
    assert said(server) == {"row-0": "keep"}
    assert judge(server, 0, "undo")[0] == 200
    assert "no verdict" in ask(server, "verdict", late)[1]["error"]
    assert judge(server, 0, "drop")[0] == 200
    assert said(server) == {"row-0": "drop"}


def test_a_full_disk_leaves_whole_lines(server: ReviewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert judge(server, 0, "keep")[0] == 200
    before = server.session.target.out.read_bytes()

    def half(handle: int, data: bytes) -> None:
        os.write(handle, data[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(review_log, "_write", half)
        status, answer = judge(server, 1, "keep")
        assert (status, answer["error"]) == (500, "nothing was written: [Errno 28] No space left on device")
    assert server.session.target.out.read_bytes() == before
    assert judge(server, 1, "keep")[0] == 200


def test_a_file_that_an_editor_wrote_is_read_anew(server: ReviewServer) -> None:
    out = server.session.target.out
    assert judge(server, 0, "keep")[0] == 200
    other = out.with_name("other")
    other.write_text('{"id": "row-1", "verdict": "drop"}')  # no line break at its end
    other.replace(out)
    assert state(server)["counts"] == {"keep": 0, "drop": 1, "correct": 0, "skip": 0}
    assert judge(server, 2, "keep")[0] == 200
    assert said(server) == {"row-1": "drop", "row-2": "keep"}
    with out.open("r+") as file:  # in place, and as long as it was
        file.write(out.read_text().replace("drop", "skip"))
    assert state(server)["counts"] == {"keep": 1, "drop": 0, "correct": 0, "skip": 1}
    with out.open("a") as file:
        file.write("nonsense\n")
    status, answer, _ = ask(server, "state")
    assert (status, answer["error"]) == (409, f"{out}:3: not JSON (Expecting value at column 1)")
    assert judge_blindly(server)[0] == 500


def judge_blindly(server: ReviewServer) -> tuple[int, Any]:
    return ask(server, "verdict", {"key": "row-4", "verdict": "keep", "revision": 0})[:2]


def test_a_line_that_was_cut_off_is_removed_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "v.jsonl"
    out.write_bytes(b'{"id": "row-0", "verdict": "keep"}\n{"id": "row-1", "verd')
    log = ReviewLog(out)
    assert log.cut == '{"id": "row-1", "verd'
    assert out.read_bytes() == b'{"id": "row-0", "verdict": "keep"}\n'
    out.write_bytes(b'{"id": "row-0", "verdict": "keep"}')
    assert ReviewLog(out).cut == ""
    assert out.read_bytes().endswith(b"}\n"), "a whole one is ended"


@pytest.mark.parametrize(
    "content", ["hello", '{"id": "a"}', '{"id": 3, "prompt": "x"}', '{"id": "a", "verdict": "keep"}\nmore', "[" * 9999]
)
def test_a_file_that_is_no_file_of_verdicts_is_left_alone(tmp_path: Path, content: str) -> None:
    out = tmp_path / "v.jsonl"
    out.write_text(content)
    with pytest.raises(ValueError, match=rf"{re.escape(str(out))}:\d: "):
        ReviewLog(out)
    assert out.read_text() == content
    with pytest.raises(ValueError, match="not a file"):
        ReviewLog(tmp_path)


def start(file: Path) -> tuple[subprocess.Popen[str], str, str]:
    """`r1 review` in a process of its own: the process, the address of its page, its line about verdicts."""
    line = [sys.executable, "-m", "pipeline", "review", str(file), "--no-browser", "--reviewer", "li"]
    child = subprocess.Popen(
        line,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert child.stdout
    told = [child.stdout.readline() for _ in range(4)]
    return child, told[2].split()[1], told[1].strip()


def test_kill_9_loses_nothing_and_the_next_start_goes_on(tmp_path: Path) -> None:
    file = rows_file(tmp_path, [chain(n) for n in range(4)])
    out = tmp_path / "chains.verdicts.jsonl"
    for number in range(2):
        child, url, told = start(file)
        assert told == f"Verdicts: {out} ({number} of 4)"
        with urllib.request.urlopen(f"{url}state") as answer:
            row = json.load(answer)["row"]
        assert row["at"] == number
        body = json.dumps({"key": row["key"], "verdict": "keep", "revision": 0}).encode()
        request = urllib.request.Request(f"{url}verdict", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request).close()
        child.kill()
        child.communicate()
    assert list(read_verdicts(out)) == ["row-0", "row-1"]
    child, _, _ = start(file)
    child.send_signal(signal.SIGINT)
    said, error = child.communicate(timeout=30)
    assert (child.returncode, said.strip(), error) == (0, f"2 of 4: {out}", "")


def test_one_row_under_two_doubts_is_shown_once(tmp_path: Path) -> None:
    row = candidate().row | {"domain": "math", "language": "en", "reason": "wrong"}
    file = rows_file(tmp_path, [row | {"doubt": "a"}, chain(1), row | {"doubt": "b"}])
    found = session(file)
    assert len(found.target.items) == 2
    answer = found.state("0", None, None)[1]["row"]
    assert (answer["doubts"], answer["reason"]) == (["a", "b"], "wrong")


def test_rows_of_every_shape_can_be_shown(tmp_path: Path) -> None:
    said_it = [{"role": "assistant", "content": "x"}]
    turns = [
        *said_it,
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": "<推理过程>想</推理过程><摘要>四</摘要>"},
    ]
    rows = [
        toy_row(0),
        toy_row(1) | {"chosen": said_it, "rejected": said_it},
        chain(2, "no layout", tests={"cases": [1]}, provenance="a text"),
        toy_row(3) | {"completion": turns, "language": "zh"},
    ]
    found = session(rows_file(tmp_path, rows), convention="zh")
    shown = [found.state(str(n), None, None)[1]["row"] for n in range(4)]
    assert [row["completion"] for row in shown[:3]] == [None, None, "no layout"]
    assert shown[1]["chosen"] == said_it
    assert shown[2]["fault"] == "<推理过程> is missing"
    assert json.loads(shown[2]["tests"]) == {"cases": [1]}
    assert (shown[3]["reasoning"], shown[3]["answer"], len(shown[3]["turns"])) == ("想", "四", 2)
    body = {"key": "row-1", "verdict": "correct", "revision": 0, "completion": "<推理过程>a</推理过程><摘要>b</摘要>"}
    assert found.judge(json.dumps(body).encode()) == (
        422,
        {"error": "a pair of answers has no single text; keep or drop it"},
    )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["gone.jsonl"], "gone.jsonl: there is no such file, artifact, run directory, or step of a run"),
        (["empty.jsonl"], "has no rows to review"),
        (["bad.jsonl"], "bad.jsonl:1: the column 'id' is missing"),
        (["chains.jsonl", "--convention", "zhh"], "--convention: unknown convention 'zhh'; did you mean 'zh'?"),
        (["chains.jsonl", "--out", "chains.jsonl"], "chains.jsonl:1: unknown key 'prompt'"),
        (["chains.jsonl", "--list", "--out", "bad.jsonl"], "bad.jsonl:1: the key 'id' is missing"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    arguments: list[str],
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = rows_file(tmp_path, [chain(0)]).read_bytes()
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.jsonl").write_text("{}\n")
    assert cli.main(["review", "--no-browser", *arguments], STAGES) == 2
    told = capsys.readouterr().err
    assert told.startswith("r1: ")
    assert error in told
    assert told.count("\n") == 1
    assert (tmp_path / "chains.jsonl").read_bytes() == before


def test_a_port_that_is_taken_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = rows_file(tmp_path, [chain(0)])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["review", str(file), "--no-browser", "--port", port], STAGES) == 2
    assert f"--port {port} is in use; --port 0 takes a free one" in capsys.readouterr().err
    for wrong in ("65536", "-1", "x"):
        with pytest.raises(SystemExit):
            cli.main(["review", str(file), f"--port={wrong}"], STAGES)


def test_the_list_needs_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = rows_file(tmp_path, [chain(0), chain(1, doubt="close \x1b[31m"), chain(2)])
    out = tmp_path / "v.jsonl"
    out.write_text('{"id": "row-0", "verdict": "drop"}\n{"id": "row-2", "verdict": "keep", "seen": "0"}\n')
    assert cli.main(["review", str(file), "--list", "--out", str(out)], STAGES) == 0
    assert capsys.readouterr().out.splitlines() == [
        "row-0  drop     question 0",
        "row-1  -        close ?[31m",
        "row-2  keep (another text)  question 2",
        f"2 of 3 have a verdict in {out}",
    ]
