"""The command line: everything that is wrong is told at once, quickly, with exit code 2 and nothing left behind."""

import errno
import importlib
import subprocess
import sys
import time
import types

import pytest
from conftest import ROOT

from configs import cifar10_lt, default, recipes
from saddle_jax.errors import ConfigError, tell
from saddle_jax.experiment import catalogue, command_line, config_file, configure, reference
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment import help as help_lib
from saddle_jax.experiment.checks import problems_of
from saddle_jax.experiment.durations import parse_duration

SOUND = {("data.mean", "-1"), ("eval.rank_bounds", "[]"), ("loss.custom_weights", "[]"), ("spectra.at", "[]")}
FIELDS = config_lib.flatten(default.get_config())


def main(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, ROOT / "main.py", *arguments], capture_output=True, text=True, cwd=cwd)


def problems_with(**changes):
    config = default.get_config()
    for field, value in changes.items():
        with config.ignore_type():
            config.update_from_flattened_dict({field.replace("__", "."): value})
    return "\n".join(problems_of(config, default.get_config()))


def test_help_is_quick_and_imports_nothing_heavy():
    main("--help")  # byte-compile
    began = time.monotonic()
    result = main("--help")
    assert time.monotonic() - began < 2  # a second on an idle machine
    assert result.returncode == 0
    for word in ("--config", "--workdir", "--mode", "ldam_drw", "smoke", "75", "--runs", "report.html"):
        assert word in result.stdout
    heavy = "import sys, main; sys.exit(any(m in sys.modules for m in ('jax', 'tensorflow', 'flax', 'numpy', 'rich')))"
    assert subprocess.run([sys.executable, "-c", heavy], cwd=ROOT).returncode == 0


@pytest.mark.faults("G1")
def test_all_problems_at_once_without_leaving_a_file(tmp_path):
    workdir = tmp_path / "run"
    result = main(
        "--config", "configs/cifar10_lt.py:ce_drw", "--config.batchsize=3", "--config.data.ratio=abc", "--mode=trian",
        "--wrkdir=x", f"--workdir={workdir}", "--config.data.source=digit", "stray",
    )  # fmt: skip
    assert result.returncode == 2
    assert "6 problems" in result.stderr
    for part in (
        "no such field. Did you mean batch_size", "found 'abc', expected a number", "train|eval|predict|export|spectra",
        "Did you mean: workdir", "Did you mean digits or image_list?", "'stray': expected a flag",
    ):  # fmt: skip
        assert part in result.stderr
    assert "Traceback" not in result.stderr
    assert not workdir.exists()


def test_bad_arguments_of_the_experiment():
    result = main("--config", "configs/cifar10_lt.py:vs_sm,rato=3,profile=exp,profile=step")
    assert result.returncode == 2
    assert "3 problems" in result.stderr
    assert "Did you mean vs_sam" in result.stderr
    assert "a second time" in result.stderr
    missing = main("--config", "configs/cifar10.py")
    assert missing.returncode == 2
    assert "Did you mean cifar10_lt" in missing.stderr


def test_a_link_comes_with_a_size_of_its_own(capsys):
    command = command_line.parse(["main.py", "--config=configs/cifar10_lt.py", "--config.optim.name=asam"])
    assert command.config.asam.rho == (0.5,)
    command = command_line.parse(["main.py", "--config=configs/cifar10_lt.py", "--config.sam.rho=0.3"])
    assert command.config.sam.rho == (0.3,)


def test_a_wrong_value_hides_no_check_between_others():
    config = cifar10_lt.get_config("ldam_drw_sam")
    config.model.head, config.batch_size, config.data.ratio = "linear", 0, 0.5
    config.spectra.at = (300,)
    found = problems_of(config)
    assert len(found) == 4
    for part in ("batch_size: found 0", "data.ratio: found 0.5", "--config.model.head=normed", "past the end"):
        assert any(part in problem for problem in found), part


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("optim.sse_sam", ["AAAI 2025", "--config.sse_sam.head_factor=0.5", "Its size is sse_sam.rho"]),
        ("cc_sam", ["CVPR 2023", "It needs micro_batches=1", "Recipes set optim.batch_stats=first"]),
        ("loss", ["ldam", "vector scaling", "--config.loss.drw_start='80%'"]),
        ("data.ratio", ["imbalance factor", "1 or more"]),
        ("spectra", ["--config.spectra.steps=100", "May change when a run is resumed"]),
        ("networks", ["resnext50_32x4d", "7.4 million"]),
        ("adjust", ["tau_norm:TAU", "taken by --mode eval, predict, export"]),
        ("mode", ["--mode import"]),
    ],
)
def test_help_on_a_topic(topic, words):
    text = help_lib.text([topic], [], 200)
    for word in words:
        assert word in text


def test_help_on_every_mode_and_flag_in_lines_that_fit():
    for name, mode in command_line.MODES.items():
        text = help_lib.text([name], [])
        assert mode.does[:20] in text and all(f"  --{flag}" in text for flag in (*mode.flags, "workdir"))
        assert all(name in help_lib.text([flag], []).partition("taken by --mode ")[2] for flag in mode.flags)
    for width in (40, 80):
        lines = help_lib.text([], ["digits_lt"], width).splitlines()
        assert {"Examples", "Modes", "Flags of modes", "Exit codes"} <= set(lines)
        assert [line for line in lines if len(line) > width] == []


def test_help_on_every_field_and_every_entry():
    for field, value in FIELDS.items():
        assert field in help_lib.text([field], [], 200), (field, value)
    for choice, entries in catalogue.ENTRIES.items():
        for name, entry in entries.items():
            assert entry.summary[:20] in help_lib.text([f"{choice}.{name}"], [], 200)
            assert not entry.summary.endswith(".")
    with pytest.raises(ConfigError, match="Did you mean sse_sam"):
        help_lib.text(["sse_sma"], [])
    assert help_lib.topics(["main.py", "--help=loss"]) == ["loss"]
    assert help_lib.topics(["main.py", "--mode", "train"]) is None


def test_every_entry_has_its_maker_and_names_are_of_one_kind():
    names = [name for entries in catalogue.ENTRIES.values() for name in entries]
    assert len(names) == len(set(names))
    for entries in catalogue.ENTRIES.values():
        for name, entry in entries.items():
            assert name == "sgd" or callable(entry.maker()), name


def test_a_broken_config_file_is_told_without_a_traceback(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import nothing_like_it\n")
    result = main("--config", str(path))
    assert result.returncode == 2
    assert "can't be loaded: No module named 'nothing_like_it'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_config_file_without_arguments(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from configs import default\ndef get_config():\n  return default.get_config()\n")
    assert config_file.load(str(path)).to_dict() == default.get_config().to_dict()
    with pytest.raises(ConfigError, match=r"mine.py takes no arguments after the colon, found 'smoke'") as error:
        config_file.load(f"{path}:smoke")
    assert len(str(error.value).splitlines()) == 2
    path.write_text("def get_config(argument):\n  return argument + 1\n")  # its own TypeError is another matter
    with pytest.raises(ConfigError, match="mine.py can't be loaded: can only concatenate str"):
        config_file.load(f"{path}:smoke")


def test_shipped_configs_go_by_name_and_are_configs_only_while_one_loads(tmp_path, monkeypatch):
    wanted = cifar10_lt.get_config("ce_drw").to_dict()
    monkeypatch.chdir(tmp_path)
    own = types.ModuleType("configs")  # as a program that uses saddle_jax may have
    monkeypatch.setitem(sys.modules, "configs", own)
    for name in ("cifar10_lt:ce_drw", "configs/cifar10_lt.py:ce_drw", f"{ROOT}/configs/cifar10_lt.py:ce_drw"):
        assert config_file.load(name).to_dict() == wanted
    assert config_file.load("methods/glmc_cifar:smoke").method == "glmc"
    assert sys.modules["configs"] is own


def test_a_path_that_can_not_be(tmp_path):
    long = "d" * 300
    result = main("--workdir", long, "--config", long, cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    for part in ("2 problems", f"--workdir: '{long}' can't be used (File name too long)", "--config: found no file"):
        assert part in result.stderr
    assert "can't be used (Could not determine home" in main("--workdir=~nobody-is-called-so/run").stderr
    error = OSError(errno.ENAMETOOLONG, "File name too long", long)  # of a path in the config, from any depth
    assert tell(error) == 2


@pytest.mark.faults("G1")
@pytest.mark.parametrize("field", sorted(FIELDS))
def test_a_misspelled_field_gets_the_right_name(field):
    typo = field[:-1] + ("x" if field[-1] != "x" else "y")
    base = default.get_config()
    problem = configure._override_problem(f"--config.{typo}=1", base)
    assert "no such field" in problem
    assert field in problem


@pytest.mark.faults("G1")
@pytest.mark.parametrize("field", sorted(FIELDS))
@pytest.mark.parametrize("value", ["abc", "[]", "-1", "1e400", "nan"])
def test_no_bad_value_gets_through(field, value):
    """Either the flag's type refuses it, or the checks do, or it is a sound value of this field."""
    base = default.get_config()
    override = f"--config.{field}={value}"
    if configure._override_problem(override, base) is None:
        config = configure._overridden([override], base)
        taken = config_lib.flatten(config)[field]
        free_text = isinstance(FIELDS[field], str) and field in (
            "name", "start_from", "compilation_cache", "spectra.classes", "spectra.landscape", "model.weights",
            "data.name", "data.path", "data.root", "data.test_split",
        )  # fmt: skip
        sound = free_text or (field, value) in SOUND
        assert bool(problems_of(config, base)) != sound, f"{field} = {taken!r}"


@pytest.mark.faults("G2")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss__name": "ldam"}, "Fix: --config.model.head=normed"),
        ({"data__source": "arrays"}, "needs data.path"),
        ({"data__source": "tfds"}, "needs data.name"),
        ({"optim__lr": ((0, 0.1), (160, 0.01), (80, 0.001))}, "positions must rise"),
        ({"optim__lr": ((0, 0.1), (240, 0.01))}, "240 epochs is past the end"),
        ({"optim__lr": ((5, 0.1),)}, "the first knot is at 5"),
        ({"optim__lr": ()}, "expected a number, or (position, learning rate) pairs"),
        ({"optim__lr": ((0, -0.1),)}, "found learning rate -0.1"),
        ({"optim__lr": (("later", 0.1),)}, "expected a duration"),
        ({"sam__rho": ((0, "a"),)}, "found rho 'a'"),
        ({"duration": "80%"}, "expected epochs or steps"),
        ({"duration": "0 epochs"}, "expected more than 0"),
        ({"loss__class_weights": "drw", "loss__drw_start": "200 epochs"}, "would never act"),
        ({"loss__class_weights": "drw", "duration": "90 epochs", "loss__drw_start": "160 epochs"}, "would never act"),
        ({"loss__class_weights": "custom"}, "needs loss.custom_weights. Fix: --config.loss.custom_weights="),
        ({"loss__custom_weights": (("a", 2),)}, "no effect with loss.class_weights='none'. Fix: --config.loss.class_w"),
        ({"loss__custom_weights": (("a", 2), ("a", 3))}, "class 'a' is named twice"),
        ({"loss__custom_weights": (("a", 0),)}, "found weight 0 of class 'a', expected a number above 0"),
        ({"loss__custom_weights": ((3, 2.0),)}, "found (3, 2.0), expected (class name, weight) pairs"),
        ({"loss__custom_weights": ("a", 2)}, "found 'a', expected (class name, weight) pairs"),
        ({"data__mean": (0.5, 0.5)}, "found 2 and 1 channels"),
        ({"data__std": (0.0,)}, "expected one number above 0"),
        ({"eval__rank_bounds": (7, 3)}, "two rising class ranks"),
        ({"data__profile": "as_is", "data__largest_class": 5}, "has no effect"),
        ({"model__name": "wide_resnet3"}, "Did you mean wide_resnet32"),
        ({"optim__batch_stats": "bth"}, "Did you mean both?"),
        ({"data__ratio": 0.01}, "expected 1 or more"),
        ({"spectra__loss": "ldam"}, "spectra.loss='ldam' needs model.head='normed'"),
        ({"spectra__logit_scale": 1.0}, "no effect with model.head='linear'"),
        ({"spectra__at": (10, "later")}, "spectra.at: found 'later', expected a duration"),
        ({"spectra__at": (10, 201)}, "spectra.at: 201 epochs is past the end"),
        ({"spectra__every": "often"}, "spectra.every: found 'often', expected a duration"),
        ({"spectra__every": "0 steps"}, "expected more than 0"),
        ({"spectra__classes": " ,"}, "spectra.classes: found nothing"),
    ],
)
def test_checks_of_the_config(changes, message):
    assert message in problems_with(**changes)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x = 1", "has no attribute 'get_config'"),
        ("def get_config(): pass", "returned None, expected a ConfigDict"),
        ("def get_config():\n c = default.get_config(); c.batchsize = 3; return c", "Did you mean batch_size"),
        ("def get_config():\n c = default.get_config(); del c['seed']; return c", "seed: missing"),
        (
            "def get_config():\n c = default.get_config()\n with c.ignore_type(): c.seed = 'abc'\n return c",
            "seed: found 'abc', expected a whole number",
        ),
        ("def get_config(): 1 / 0", "can't be loaded: division by zero"),
    ],
)
def test_a_config_file_of_the_users_own(tmp_path, body, message):
    path = tmp_path / "mine.py"
    path.write_text(f"from configs import default\n{body}\n")
    result = main("--config", str(path), cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_values_and_repetitions_of_flags(tmp_path):
    joined = command_line._join_values(
        ["--config", "a.py", "--config.vs.tau", "-1", "--config.data.flip", "--mode=eval"]
    )
    assert joined == ["--config=a.py", "--config.vs.tau=-1", "--config.data.flip", "--mode=eval"]
    assert command_line._join_values(["--compare", "a", "b", "--mode", "x"]) == ["--compare=a,b", "--mode=x"]
    wrong = ("--config.data.mean=(0.1,0.2)", "--config.data.mean=(0.3,0.3,0.3)")
    result = main(*wrong, cwd=tmp_path)  # the last one counts: it alone disagrees with data.std
    assert "found 3 and 1 channels" in result.stderr
    bare = main("--config", cwd=tmp_path)
    assert "--config: expected a file" in bare.stderr
    useless = main("--mode=check", "--checkpoint=best", "--adjust=logit:x", cwd=tmp_path)
    assert "--checkpoint belongs to --mode eval" in useless.stderr
    assert "--adjust belongs to --mode eval, predict, and export" in useless.stderr
    assert "found 'logit:x', expected" in useless.stderr
    exported = main("--mode=export", "--formats", "onnx", "onx", "--config.seed=1", cwd=tmp_path)
    for part in (
        "4 problems",
        "export needs --out",
        "export needs --workdir",
        "found 'onx', expected some of stablehlo",
    ):
        assert part in exported.stderr
    cosine = main("--mode=eval", "--adjust=tau_norm", "--config.model.head=normed", cwd=tmp_path)
    assert "--adjust tau_norm: the cosine head" in cosine.stderr
    compared = main("--mode=spectra", "--compare", "one", "--checkpoint=best", cwd=tmp_path)
    for part in ("3 problems", "found 1 run, expected two or more", "found no directory 'one'", "expected a step"):
        assert part in compared.stderr
    assert "--compare belongs to --mode spectra" in main("--compare", "a", "b", cwd=tmp_path).stderr
    assert {compared.returncode, bare.returncode, useless.returncode} == {2}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--coordinator=a:1"], ["--coordinator belongs to --distributed", "also --num_processes and --process_id"]),
        (["--distributed", "--process_id=0"], ["also --coordinator and --num_processes"]),
        (
            ["--distributed", "--coordinator=a", "--num_processes=2", "--process_id=2", "--mode=eval"],
            ["expected 0 to 1", "expected HOST:PORT", "--distributed belongs to --mode train"],
        ),
        (
            ["--distributed", "--config.spectra.every=10 epochs"],
            ["measured by one process only", "--distributed needs --config"],
        ),
        (["--num_processes=0"], ["num_processes"]),
    ],
)
def test_flags_of_several_processes(arguments, words, tmp_path):
    result = main(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert all(word in result.stderr for word in words), result.stderr


def test_smoke_fits_any_ratio():
    from saddle_jax.data import sources

    for argument in ("smoke,ratio=200", "smoke,ratio=1000,profile=step", "smoke,ratio=10"):
        assert sources.load(cifar10_lt.get_config(argument)).stats.counts_C.min() > 0
    with pytest.raises(ConfigError, match="no effect with profile=as_is"):
        cifar10_lt.get_config("ratio=50,profile=as_is")


def test_a_longer_run_stretches_its_schedules():
    config = cifar10_lt.get_config("ce_drw_sse_sam,epochs=400")
    assert (config.duration, config.loss.drw_start, config.optim.lr[-1]) == ("400 epochs", "80%", ("90%", 1e-5))
    assert config.name == "cifar10_lt-ce_drw_sse_sam-exp100-400epochs"
    assert not problems_of(config, default.get_config())
    assert cifar10_lt.get_config("ce_drw,epochs=200").to_dict() == cifar10_lt.get_config("ce_drw").to_dict()
    with pytest.raises(ConfigError, match="epochs=400 has no effect with smoke"):
        cifar10_lt.get_config("smoke,epochs=400")
    with pytest.raises(ConfigError, match="found epochs='4.5', expected a whole number"):
        cifar10_lt.get_config("epochs=4.5")


def test_every_shipped_config_is_sound_with_every_argument():
    for name in ("digits_lt", "cifar10_lt", "cifar100_lt"):
        module = importlib.import_module(f"configs.{name}")
        assert problems_of(module.get_config(), default.get_config()) == []
        for method, (_, link) in recipes.METHODS.items():
            for argument in (method, f"smoke,{method}", f"ratio=10,{method},profile=step", f"profile=as_is,{method}"):
                config = module.get_config(argument)
                assert problems_of(config, default.get_config()) == [], (name, argument)
                assert config.optim.name == link
                assert (config.model.head == "normed") == method.startswith("ldam")
        assert module.get_config("vs,ratio=50").data.ratio == 50
        with pytest.raises(ConfigError, match="vs_sam_pgd"):
            module.get_config("vs_sam_pgd")


@pytest.mark.parametrize(
    "name",
    [
        *("glmc_cifar", "glmc_imagenet_lt", "glmc_inat18", "retrain_cifar"),
        *("paco_cifar100", "paco_imagenet_lt", "paco_inat18"),
    ],
)
def test_configs_of_methods_are_sound_with_every_argument(name):
    module = importlib.import_module(f"configs.methods.{name}")
    own = name.partition("_")[0]

    def config_of(argument):
        config = module.get_config(argument)
        config.start_from = "runs/first" if own == "retrain" else ""
        problems = problems_of(config, default.get_config())
        if config.optim.name == "cc_sam":
            assert len(problems) == 1 and "optim.name='cc_sam' does not go with method=" in problems[0], argument
        else:
            assert problems == [], argument
        return config

    methods = getattr(module, "METHODS", recipes.with_links([own]))
    for method, (_, link) in methods.items():
        for argument in (method, f"smoke,{method}", f"{method},profile=as_is"):
            config = config_of(argument)
            assert config.optim.name == link
            assert config.method == own
    if "cifar" in name:
        config_of("ratio=10,profile=step")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"glmc.contrast": 9.0}, "glmc.contrast has no effect with method='plain'. Fix: --config.method=glmc"),
        ({"method": "glmc", "paco.alpha": 0.5}, "paco.alpha has no effect with method='glmc'"),
        ({"method": "paco", "spectra.loss": "training"}, "spectra.loss='training' does not go with method='paco'"),
        (
            {"method": "paco", "optim.name": "sam", "sam.perturbation": "per_device"},
            "sam.perturbation='per_device' does not go with",
        ),
        ({"method": "retrain"}, "start_from names none. Fix: --config.start_from=DIRECTORY"),
        ({"method": "retrain"}, "Fix: --config.data.sampling=balanced"),
        ({"method": "retrain", "micro_batches": 2}, "Fix: --config.micro_batches=1"),
        ({"method": "retrain", "optim.name": "cc_sam"}, "optim.name='cc_sam' does not go with method='retrain'"),
        ({"retrain.flat_limit": 0.5}, "retrain.flat_limit has no effect with method='plain'"),
        ({"imbsam.tail_below": 5}, "Fix: --config.optim.name=imbsam, or --config.imbsam.tail_below=0"),
        (
            {"optim.name": "le_sam", "sam.perturbation": "per_device"},
            "sam.perturbation has no effect with optim.name",
        ),
        ({"optim.name": "cc_sam", "micro_batches": 2}, "micro_batches=2 does not go with optim.name='cc_sam'"),
        ({"optim.name": "sse_sam", "sse_sam.switch_at": "100%"}, "the second stage would never begin"),
    ],
)
def test_fields_that_would_do_nothing_or_mislead_are_refused(fields, message):
    config = default.get_config()
    config.update_from_flattened_dict(fields)
    assert any(message in problem for problem in problems_of(config, default.get_config()))


@pytest.mark.parametrize(
    ("text", "steps"),
    [("10 epochs", 970), ("1 epoch", 97), ("30 steps", 30), ("25%", 50), (2, 194), (0.0, 0)],
)
def test_durations(text, steps):
    assert parse_duration(text).steps(97, 200) == steps


def test_half_a_step_counts_as_one():
    assert [parse_duration(f"{epochs} epochs").steps(1) for epochs in (0.5, 1.5, 2.5, 3.5)] == [1, 2, 3, 4]
    assert [parse_duration(f"{part}%").steps(1, 50) for part in (29, 28.9, 0.99, 1)] == [15, 14, 0, 1]
    assert parse_duration("0.5 epochs").steps(97) == 49


@pytest.mark.parametrize(
    "text", ["", "epochs", "-1 epochs", "ten epochs", "10", "5 minutes", -1, float("nan"), None, True]
)
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


def test_json_keeps_every_field_and_the_fingerprint():
    config = cifar10_lt.get_config("vs_sam,ratio=50")
    again = config_lib.from_json(config_lib.to_json(config))
    assert config_lib.flatten(again) == config_lib.flatten(config)
    assert config_lib.fingerprint(again) == config_lib.fingerprint(config)
    again.seed += 1
    assert config_lib.fingerprint(again) == config_lib.fingerprint(config)
    assert config_lib.default_workdir(again) != config_lib.default_workdir(config)
    again.log_every = "7 steps"
    assert list(config_lib.differences(config, again)) == ["seed"]
    again.optim.momentum = 0.8
    assert config_lib.fingerprint(again) != config_lib.fingerprint(config)
    with pytest.raises(ConfigError, match="does not know: loss.nam"):
        config_lib.from_json('{"loss": {"nam": 1}}')
    with pytest.raises(ConfigError, match="can't be read"):
        config_lib.from_json("{")


def test_overrides_on_top_of_a_runs_own_config(tmp_path):
    (tmp_path / "config.json").write_text('{"optim": {"name": "asam"}, "loss": {"name": "vs"}}')
    script = """
import sys
from saddle_jax.experiment import command_line
config = command_line.parse(sys.argv).config
print(config.optim.name, config.loss.name, config.spectra.classes)
"""
    arguments = ["--mode=spectra", f"--workdir={tmp_path}", "--config.spectra.classes=0,9"]
    result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "asam vs 0,9\n", result.stderr


def test_the_reference_page_is_current():
    assert (ROOT / "docs/reference.md").read_text() == reference.page().rstrip() + "\n"
