"""Options as people write them, in every command; and what `run` says of a model file that is odd."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from memfirst.cli import USAGE, run_command
from memfirst.cli.app import COMMANDS, ELSEWHERE, command
from memfirst.cli.chat_commands import NAMES, PARAMETERS
from memfirst.cli.options import tokens
from tests.cli.test_cli import FAKE, MEMFIRST, check_one_line
from tests.cli.test_cli import command as ran_command
from tests.cli.test_run import run, small, write


def asked(*args: str) -> dict[str, object]:
    """What the engine is asked for."""
    return dict(json.loads(ran_command(FAKE, "run", "m.gguf", "-p", "x", "--json", *args).stdout))


def test_run_takes_what_peers_take() -> None:
    assert asked("--ctx", "32k")["options"] == asked("--ctx", "32768")["options"]
    assert asked("--ctx", "32K")["options"]["ctx"] == 32768  # type: ignore[index]
    assert asked("--temp", "0")["params"] == asked("--temperature", "0")["params"]
    assert "repetition_penalty=1.0" in str(asked()["params"])
    assert ran_command(FAKE, "run", "-h").stdout == ran_command(FAKE, "run", "--help").stdout


@pytest.mark.parametrize("word", ["32 kb", "k", "", "-1", "1.5k", "x", "9" * 12])
def test_what_is_no_number_of_tokens(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "m.gguf", "-p", "x", "--ctx", word]) == USAGE
    err = capsys.readouterr().err
    check_one_line(err)
    assert "32k" in err
    assert tokens("16k") == 16384 == tokens("16K") == tokens(16384)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistyped_option_is_answered_by_the_nearest(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each option of each command, with its last letter doubled."""
    for option in (o for parameter in command().commands[name].params for o in parameter.opts if o.startswith("--")):
        args = [name, option + option[-1]]
        assert run_command(args) == USAGE
        err = capsys.readouterr().err
        check_one_line(err)
        assert f"did you mean {option}?" in err, args


@pytest.mark.parametrize(
    ("line", "says"),
    [("run -m x.gguf -p hi", "no such option: -m; the model stands alone: memfirst run MODEL."),
     ("bench --model x.gguf", "the model stands alone: memfirst bench MODEL."),
     ("run m.gguf -ngl 99 hi", "no such option: -ngl; memfirst computes on processors: leave it out."),
     ("run m.gguf -f notes.txt", "memfirst run MODEL < FILE."), ("run m.gguf --keepalive 5m hi", "leave it out."),
     ("run m.gguf -sys brief hi", "it is --system TEXT."), ("run m.gguf --format json hi", "--schema FILE makes JSON."),
     ("--verison", "did you mean --version?")],
)  # fmt: skip
def test_options_of_other_engines_that_are_none_here(line: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(line.split()) == USAGE
    err = capsys.readouterr().err
    check_one_line(err)
    assert says in err


def test_other_engines_names_of_options(capsys: pytest.CaptureFixture[str]) -> None:
    here = {option for parsed in command().commands.values() for p in parsed.params for option in p.opts}
    assert set(ELSEWHERE.values()) <= here
    for word, option in {"-c": "--ctx", "--ctx-size": "--ctx", "--num-predict": "--max-tokens"}.items():
        assert run_command(["run", word, "4"]) == USAGE
        assert f"did you mean {option}?" in capsys.readouterr().err
    assert run_command(["rm", "--zzzzzz\x1b[2J"]) == USAGE
    err = capsys.readouterr().err
    assert "did you mean" not in err and "\x1b" not in err
    assert run_command(["rum"]) == USAGE and "'run'" in capsys.readouterr().err


def test_quiet_prints_the_answer_alone() -> None:
    ran = ran_command(FAKE, "run", "m.gguf", "hi", "--quiet")
    assert (ran.stdout, ran.stderr) == ("Memory is the limit.\n", "closed\n")
    assert ran_command(FAKE, "run", "m.gguf", "hi", "-q").stderr == "closed\n"
    assert ran_command(FAKE, "run", "no.gguf", "hi", "-q", FAKE_ERROR="1").stderr.startswith(
        "closed\nmemfirst: the context"
    )


def test_one_answer_imports_no_editor_of_prompts() -> None:
    """The first token must not wait for what only a chat needs."""
    ran = ran_command([FAKE[0], "-X", "importtime", *FAKE[1:]], "run", "m.gguf", "hi")
    assert ran.stdout and "memfirst.runtime.sampling" in ran.stderr
    assert not [m for m in ("prompt_toolkit", "wcwidth", "asyncio", "memfirst.cli.chat") if m in ran.stderr]


def test_every_key_of_json_is_documented(tmp_path: Path) -> None:
    path = write(small(), tmp_path / "m.gguf")
    found = json.loads(run(path, "--raw", "x", "-n", 3, "--json").stdout)
    page = (Path(__file__).parents[2] / "docs" / "run.md").read_text(encoding="utf-8")
    rows = page.partition("### `--json`")[2].partition("Exit codes")[0].splitlines()
    named = [key for row in rows if row.startswith("| `") for key in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(found)


def test_the_commands_of_a_chat_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "run.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}" not in page] == []
    shown = page.partition("/set parameter")[2].splitlines()[0]
    assert set(re.findall(r"`(\w+)`", shown)) <= PARAMETERS.keys()


# odd models


def test_an_unknown_hyperparameter_is_refused_with_advice_that_exists(tmp_path: Path) -> None:
    path = write(small(), tmp_path / "m.gguf", metadata={"llama.something.new": 3})
    ran = run(path, "-p", "x")
    assert ran.returncode == 1 and "something.new" in ran.stderr
    check_one_line(ran.stderr)
    why = json.loads(ran_command(MEMFIRST, "inspect", str(path), "--json").stdout)["why_not"]
    for said in (ran.stderr, why):
        assert "memfirst plan --allow-unknown" in said
    assert ran_command(MEMFIRST, "plan", str(path), "--on", "rtx-4090", "--allow-unknown").returncode == 0


def test_what_is_ignored_in_a_file_is_said_once(tmp_path: Path) -> None:
    path = write(small(), tmp_path / "m.gguf", metadata={"tokenizer.ggml.padding_token_id": 5000})
    ran, quiet = run(path, "--raw", "x", "-n", 2), run(path, "--raw", "x", "-n", 2, "--quiet")
    assert (ran.returncode, quiet.returncode, quiet.stderr) == (0, 0, "")
    assert ran.stderr.count("memfirst: note: padding_token_id 5000") == 1
    as_json = run(path, "--raw", "x", "-n", 2, "--json")
    assert as_json.stderr == "" and "5000" in json.loads(as_json.stdout)["notes"][0]


def test_top_p_0_is_the_likeliest_and_an_empty_stop_is_named(tmp_path: Path) -> None:
    path = write(small(), tmp_path / "m.gguf")
    greedy = run(path, "--raw", "abc", "-n", 6, "--temp", 0)
    assert greedy.stdout.strip() and run(path, "--raw", "abc", "-n", 6, "--top-p", 0).stdout == greedy.stdout
    ran = run(path, "--raw", "x", "--stop", "")
    assert ran.returncode == 1 and "empty stop string" in ran.stderr
    check_one_line(ran.stderr)
    assert run(path, "--raw", "abc", "-n", 2, "--kv", "Q8_0").returncode == 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["chat", "m"], "no such command: chat; here it is: memfirst run."),
        (["ls"], "here it is: memfirst list."),
        (["rn"], "No such command 'rn'. Did you mean 'run'?"),
        (["run", "m", "-n", "x"], "'-n' / '--max-tokens': 'x' is no whole number."),
        (["run", "m", "--temp", "hot"], "'hot' is no number."),
        (["run", "m", ""], "the prompt is empty: give one, or text on standard input."),
        (["plan", "llama3:8b", "--codec", "zz"], "something like q4_k_m, q5_k_m"),
        (["plan", "llama3:8b", "--on", "zz"], "see all with memfirst machine list"),
    ],
)
def test_bad_usage_is_said_without_the_parsers_terms(
    args: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run_command(args) in (1, 2)
    err = capsys.readouterr().err
    assert says in err and "Invalid value" not in err and err.count("\n") == 1
    assert len(err) < 400, "a list of everything is no help"
