"""Chat as a person sees it: a scripted terminal at several widths; its screens are kept as text beside this file."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from pathlib import Path

import pytest

from memfirst.cli.chat import brief
from tests.cli.test_cli import MEMFIRST
from tests.cli.test_run import small, write
from tests.support.terminal import Terminal, check_screen

SCREENS = Path(__file__).parent / "screens"
READY = "a message, or /?"
"""What an empty prompt shows."""

TALE = (
    "The quick brown| fox| jumps| over| the| lazy| dog| and| 日本語の|テキスト|は単語の間に空白が|ありません。| Then|"
    " supercalifragilisticexpialidocious| words,| a| café| and| an| emoji 🎉,| then|"
    " https://example.com/a/very/long/path/that/does/not/fit/in/one/line/of/any/terminal/of/the/tests/as/it/is/longer"
    "| end."
    "\n\n```python\n|def f(x): return x + 1  # a comment that makes this line longer than sixty columns\n|```\n|That is"
    " all| that| there| is| to| say| about| it| today."
)
SHORT = "|".join(f"word{i} " for i in range(12))


def opened(*args: str, **more: object) -> Terminal:
    """A chat whose first prompt is there."""
    terminal = Terminal("run", "m.gguf", *args, **more)  # type: ignore[arg-type]
    terminal.wait_for(READY)
    return terminal


def turns(terminal: Terminal, folder: Path) -> list[list[str]]:
    """Questions and answers so far."""
    path = folder / f"{time.monotonic_ns()}.json"
    terminal.ask(f"/save {path}")
    return list(json.loads(path.read_text())["turns"])


def fits(screen: str, columns: int) -> bool:
    """No line reaches the last column, where a terminal would break it by itself."""
    return all(len(line) < columns for line in screen.splitlines() if "# a comment" not in line)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_conversation_on_screen(columns: int) -> None:
    with opened(columns=columns, rows=60, FAKE_TEXT=TALE) as terminal:
        terminal.paste("Sum this up:\r\n- one\r\n- two")
        terminal.ask("")
        terminal.type('"""three\r')
        shown = terminal.ask('quotes"""')
        check_screen(shown, SCREENS / f"conversation_{columns}.txt")
        assert fits(shown, columns)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_commands_on_screen(columns: int) -> None:
    with opened(columns=columns, rows=60) as terminal:
        for command in ("hello", "/help", "/ledger", "/show info", "/sho info", "/set parameter temprature 1"):
            shown = terminal.ask(command)
        check_screen(shown, SCREENS / f"commands_{columns}.txt")
        assert fits(shown, columns)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_full_context_on_screen(columns: int) -> None:
    with opened(columns=columns, rows=40, FAKE_TEXT=SHORT, FAKE_CONTEXT="30") as terminal:
        for message in ("first", "second", "third", "x " * 40):
            shown = terminal.ask(message)
        check_screen(shown, SCREENS / f"full_{columns}.txt")
        assert fits(shown, columns)


# messages


def test_pasted_lines_are_one_message(tmp_path: Path) -> None:
    with opened() as terminal:
        terminal.paste("one\n  two\n\n/three")
        terminal.ask(" and more")
        terminal.paste("/not a command\nbut text")
        terminal.ask("")
        assert [q for q, _ in turns(terminal, tmp_path)] == [
            "one\n  two\n\n/three and more", "/not a command\nbut text",
        ]  # fmt: skip


def test_quotes_and_alt_enter_make_one_message_of_several_lines(tmp_path: Path) -> None:
    with opened() as terminal:
        terminal.type('"""first\rsecond\r')
        terminal.ask('third""" tail')
        terminal.type("a\x1b\r")
        terminal.ask("b")
        terminal.ask('"""short"""')
        assert [q for q, _ in turns(terminal, tmp_path)] == ["first\nsecond\nthird tail", "a\nb", "short"]


def test_a_path_is_a_message(tmp_path: Path) -> None:
    with opened() as terminal:
        for text in ("/etc/hosts is a file", "//", "/ "):
            terminal.ask(text)
        assert [q for q, _ in turns(terminal, tmp_path)] == ["/etc/hosts is a file", "//", "/"]


# Ctrl-C, and keys in an answer


def test_control_c_clears_the_line_and_twice_on_an_empty_one_leaves() -> None:
    terminal = opened()
    terminal.type("never sent\x03")
    assert "never sent" not in terminal.screen()
    terminal.type("\x03")
    terminal.wait_for("Ctrl-C again")
    terminal.ask("hello")
    terminal.type("\x03")
    terminal.wait_for("Ctrl-C again")
    terminal.type("\x03")
    shown = terminal.wait_for("closed")
    assert "Traceback" not in shown and terminal.end() == 0


def test_control_c_stops_an_answer_which_is_kept_as_far_as_it_came(tmp_path: Path) -> None:
    with opened(FAKE_SLEEP_S="0.4") as terminal:
        terminal.type("hello\r")
        terminal.wait_for("Memory")
        terminal.wait_for(" is")
        terminal.type("\x03")
        terminal.wait_for("[stopped]")
        terminal.wait_for(READY)
        [[question, answer]] = turns(terminal, tmp_path)
        assert question == "hello" and answer in ("Memory is", "Memory is the")
    terminal = opened()
    terminal.type("\x04")
    terminal.wait_for("closed")
    assert terminal.end() == 0


def test_what_is_typed_during_an_answer_is_for_the_next_prompt(tmp_path: Path) -> None:
    with opened(FAKE_SLEEP_S="0.2") as terminal:
        terminal.type("one\r")
        terminal.wait_for("Memory")
        terminal.type("tw\x7fwo")
        answer = terminal.wait_for("limit")
        assert "tw" not in answer, "it is not echoed into the answer"
        terminal.wait_for("two")
        assert ">>> two" in terminal.screen()
        terminal.ask("")
        terminal.type("three\r")
        terminal.wait_for("Memory")
        terminal.type("typed and sent\r")
        terminal.wait_for(">>> typed and sent")
        terminal.wait_for(READY)
        assert [q for q, _ in turns(terminal, tmp_path)] == ["one", "two", "three", "typed and sent"]


def test_a_large_paste_during_an_answer_is_one_message_and_survives_control_c(tmp_path: Path) -> None:
    """More than the kernel keeps for a terminal that nobody reads (4096 bytes)."""
    text = "\n".join(f"line {i} of what is pasted" for i in range(1000))
    with opened(FAKE_SLEEP_S="0.3") as terminal:
        terminal.type("one\r")
        terminal.wait_for("Memory")
        terminal.paste(text)
        time.sleep(0.2)
        terminal.type("\x03")
        terminal.wait_for("[stopped]")
        terminal.screen()
        terminal.ask("")
        assert turns(terminal, tmp_path)[1][0] == text


# a full context


def test_the_oldest_turns_are_dropped(tmp_path: Path) -> None:
    """Before an answer, and in the middle of one: it goes on."""
    with opened(FAKE_TEXT=SHORT, FAKE_CONTEXT="30") as terminal:
        for message in ("first", "second"):
            assert "context full" not in terminal.ask(message)
        assert "[context full: the oldest turn is dropped]" in terminal.ask("third")
        kept = turns(terminal, tmp_path)
        assert [q for q, _ in kept] == ["second", "third"]
        assert kept[1][1] == SHORT.replace("|", ""), "the answer is whole"
        assert "expected fewer than the context of 30" in terminal.ask("x " * 40)
        assert turns(terminal, tmp_path) == kept, "a message that never fits drops nothing"
        assert "the 2 oldest turns are dropped" in terminal.ask("y " * 15)


def test_a_full_context_stops_where_that_is_wanted(tmp_path: Path) -> None:
    with opened("--on-full", "stop", FAKE_TEXT=SHORT, FAKE_CONTEXT="30") as terminal:
        for message in ("first", "second", "third"):
            shown = terminal.ask(message)
        assert "stopped: the context is full; /clear" in shown
        assert "--on-full drop" in terminal.ask("fourth")
        assert len(turns(terminal, tmp_path)) == 3
        terminal.ask("/clear")
        assert "limit" not in terminal.ask("fifth") and len(turns(terminal, tmp_path)) == 1


def test_one_message_that_fills_the_context(tmp_path: Path) -> None:
    with opened(FAKE_TEXT=SHORT, FAKE_CONTEXT="8") as terminal:
        shown = terminal.ask("hello")
        assert "stopped: the context is full" in shown and "--ctx" in shown


def test_the_real_engine_goes_on_without_the_oldest_turns(tmp_path: Path) -> None:
    model = write(small(), tmp_path / "m.gguf")
    program = [*MEMFIRST, "run", str(model), "--ctx", "64", "--temp", "0", "-n", "24"]
    with Terminal(program=program, FAKE_CTTY="") as terminal:
        terminal.wait_for(READY)
        shown = ""
        for i in range(6):
            shown += terminal.ask(f"question {i}")
        assert "context full" in shown
        assert all(answer for _, answer in turns(terminal, tmp_path))


# commands


def test_parameters_are_set_and_shown() -> None:
    with opened("--temp", "0.5") as terminal:
        assert "temperature is 0.1" in terminal.ask("/set parameter temperature 0.1")
        terminal.ask("/set parameter num_predict 2")
        terminal.ask("/set parameter stop X Y")
        shown = terminal.ask("/show parameters")
        assert "0.1" in shown and "X Y" in shown
        assert "Memory is\n" in terminal.ask("hello") + "\n"
        assert "expected a number from" in terminal.ask("/set parameter top_p 7")
        assert "a number" in terminal.ask("/set parameter top_p high")
        assert "start again with --ctx" in terminal.ask("/set parameter num_ctx 4096")
        assert "did you mean temperature?" in terminal.ask("/set parameter temprature 1")
        terminal.ask("/reset")
        assert "0.5" in terminal.ask("/show parameters").rpartition("/show")[2]
        assert "/set takes one of" in terminal.ask("/set") and "/show takes one of" in terminal.ask("/show x")


def test_the_system_message() -> None:
    with opened("--system", "Be brief.") as terminal:
        assert "Be brief." in terminal.ask("/show system")
        terminal.ask("/set system Be long.")
        assert "Be long." in terminal.ask("/show system")
        terminal.ask("/system")
        assert "no system message" in terminal.ask("/show system").rpartition("/show")[2]
        terminal.ask("/reset")
        assert "Be brief." in terminal.ask("/show system").rpartition("/show")[2]


def test_show_and_quiet_and_unknown_ones() -> None:
    with opened() as terminal:
        assert "apache-2.0" in terminal.ask("/show license")
        assert "{{ messages }}" in terminal.ask("/show template")
        assert "no token was decoded yet" in terminal.ask("/ledger")
        terminal.ask("/set quiet")
        assert "tok/s" not in terminal.ask("hello")
        terminal.ask("/set verbose")
        assert "tok/s" in terminal.ask("hello")
        assert "did you mean /bye?" in terminal.ask("/by")
        assert "/? lists them" in terminal.ask("/qqqqqq")
        terminal.ask("/set nowordwrap")
    for leave in ("/bye", "/exit", "/quit"):
        terminal = opened()
        terminal.type(f"{leave}\r")
        terminal.wait_for("closed")
        assert terminal.end() == 0


def test_a_conversation_is_saved_and_loaded(tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path)}
    with opened(**state) as terminal:
        terminal.ask("/set parameter seed 7")
        terminal.ask("/system Be brief.")
        terminal.ask("hello")
        terminal.ask("/save talk")
    kept = tmp_path / "memfirst" / "chats" / "talk.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    with opened(**state) as terminal:
        assert "saved: talk" in terminal.ask("/load")
        assert "1 turns of talk" in terminal.ask("/load talk")
        assert turns(terminal, tmp_path) == [["hello", "Memory is the limit."]]
        assert "Be brief." in terminal.ask("/show system")
        shown = terminal.ask("/show parameters")
        assert [line for line in shown.splitlines() if line.split() == ["seed", "7"]]
        assert "no saved chat nothing" in terminal.ask("/load nothing")
        assert "expected letters" in terminal.ask("/save ..")
        assert "there is no folder" in terminal.ask(f"/save {tmp_path}/no/such/folder/x")


@pytest.mark.parametrize(
    "change",
    [
        {"turns": [["a"]]}, {"turns": [[1, 2]]}, {"turns": "ab"}, {"stop": [1]}, {"parameters": {"evil": 1}},
        {"parameters": {"temperature": "hot"}}, {"max_tokens": "x"}, {"max_tokens": True}, {"system": 3},
        {"memfirst_chat": 2},
    ],
)  # fmt: skip
def test_a_file_that_is_no_saved_chat_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    from memfirst.cli import chat_session
    from memfirst.cli.chat import Chat, ChatOptions
    from memfirst.cli.engine import Request
    from memfirst.errors import MemfirstError
    from memfirst.runtime.sampling import SamplingParams
    from tests.support.fake_engine import FakeModel

    chat = Chat(FakeModel({}), Request(None, (), SamplingParams()), None, ChatOptions())  # type: ignore[arg-type]
    path = chat_session.save(chat, str(tmp_path / "x.json"))
    chat_session.restore(chat, str(path))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    before = vars(chat).copy()
    with pytest.raises(MemfirstError):
        chat_session.restore(chat, str(path))
    assert vars(chat) == before
    for content in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(MemfirstError):
            chat_session.restore(chat, str(path))


# history


def test_what_is_typed_is_recalled_by_a_later_chat_and_for_this_users_eyes(tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path)}
    kept = tmp_path / "memfirst" / "chat_history"
    with opened(**state) as terminal:
        terminal.ask("a first question")
        terminal.ask("/set nohistory")
        terminal.ask("a secret")
    assert "a first question" in kept.read_text() and "a secret" not in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    with opened(**state) as terminal:
        terminal.type("\x1b[A\x1b[A")
        terminal.wait_for("a first question")
    before = kept.read_text()
    with opened("--private", **state) as terminal:
        terminal.type("\x1b[A")
        assert "a first question" not in terminal.screen()
        terminal.ask("a secret")
    assert kept.read_text() == before


def test_a_history_that_cannot_be_kept_is_no_error() -> None:
    with opened(XDG_STATE_HOME="/dev/null/x") as terminal:
        terminal.ask("one")
        terminal.type("\x1b[A")
        terminal.wait_for("one")
        assert "not written to disk" in terminal.ask("\x15/set nohistory")


def test_a_long_history_is_cut_to_its_newer_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    from memfirst.cli.chat_history import MOST_BYTES, ChatHistory

    history = ChatHistory(private=False)
    history.store_string("first")
    path = Path(os.fsdecode(history.filename))
    entry = "\n# 2026-01-01 00:00:00\n+" + "x" * 1000 + "\n"
    with path.open("a") as out:
        out.write(entry * (MOST_BYTES // len(entry)) + "\n# 2026-01-01 00:00:01\n+last\n+line\n")
    found = list(ChatHistory(private=False).load_history_strings())
    assert found[0] == "last\nline" and "first" not in found and set(map(len, found[1:])) == {1000}
    assert path.stat().st_size <= MOST_BYTES // 2 and stat.S_IMODE(path.stat().st_mode) == 0o600


# the status line


def test_a_status_line_stays_at_the_bottom_while_an_answer_comes() -> None:
    terminal = opened(FAKE_SLEEP_S="0.12")
    terminal.type("hello\r")
    answer = terminal.wait_for("limit")
    assert "tok/s" in answer and "\x1b[1;23r" in answer, "it is on row 24, out of the scrolled region"
    plain = re.sub(r"\x1b7.*?\x1b8|\x1bD\x1b\[1A", "", answer)
    assert "Memory is the limit" in plain, "it does not touch the answer"
    assert terminal.wait_for(READY).count("\x1b[r") == 1, "the scrolled region is given back before the prompt"
    assert terminal.screen().splitlines()[-3:-1] == ["Memory is the limit.", "100 tok/s · 10.0 GB/s · KV 1.0 MB held"]
    terminal.type("/bye\r")
    assert terminal.end() == 0


def test_the_status_line_fits_a_terminal() -> None:
    full = "214 tok/s · 20.9 GB/s, 86 % of 24.3 GB/s measured read bandwidth · per token 97.6 MB · KV 2.2 MB held"
    assert brief(full) == full.replace(" · per token 97.6 MB", "")
    assert brief("prompt 3 tokens · KV 1 MB held") == "prompt 3 tokens · KV 1 MB held"


def test_a_chat_survives_an_answer_that_fails(tmp_path: Path) -> None:
    with opened(FAKE_ERROR="1") as terminal:
        assert "memfirst: the context is full; expected fewer tokens; use --ctx" in terminal.ask("hello")
        assert turns(terminal, tmp_path) == []
    with opened(FAKE_ERROR="1", FAKE_SLEEP_S="0.8") as terminal:
        terminal.type("hello\r")
        time.sleep(0.4)
        terminal.type("typed ahead")
        terminal.wait_for("the context is full")
        terminal.wait_for(">>> typed ahead")


# other terminals


def test_a_terminal_without_escapes_gets_none_and_a_chat_all_the_same(tmp_path: Path) -> None:
    terminal = Terminal("run", "m.gguf", TERM="dumb")
    terminal.wait_for(">>> ")
    terminal.type('"""one\ntwo"""\n')
    terminal.wait_for("limit.")
    terminal.wait_for(">>> ")
    path = tmp_path / "x.json"
    terminal.type(f"/save {path}\n")
    terminal.wait_for("saved:")
    assert json.loads(path.read_text())["turns"][0][0] == "one\ntwo"
    terminal.wait_for(">>> ")
    time.sleep(0.3)  # Ctrl-C between the prompt and the read is another command's
    terminal.type("\x03")
    terminal.wait_for("Ctrl-C again")
    time.sleep(0.3)
    terminal.type("\x03")
    shown = terminal.wait_for("closed")
    assert "\x1b" not in terminal.seen + shown and "Traceback" not in shown
    assert terminal.end() == 0


def test_a_prompt_on_a_terminal_without_escapes_gets_none() -> None:
    terminal = Terminal("run", "m.gguf", "-p", "hi", TERM="dumb")
    assert "\x1b" not in terminal.wait_for("closed")
    assert terminal.end() == 0


def test_answers_go_to_a_file_and_prompts_to_the_terminal(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        terminal = Terminal("run", "m.gguf", stdout=out.fileno())
        terminal.wait_for(">>> ")
        terminal.type("hello\n")
        terminal.wait_for(">>> ")
        terminal.type("\x04")
        terminal.wait_for("closed")
        assert terminal.end() == 0
    text = (tmp_path / "out").read_text()
    assert "Memory is the limit." in text and ">>>" not in text and "\x1b" not in text
