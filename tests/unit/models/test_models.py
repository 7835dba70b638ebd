"""Checkpoints by folder or hub id: shards, damage, revisions, no remote code, attention by device, both trainers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from small_answerer import save_vlm, small_vlm
from viarl.answer.asking import answerer_messages
from viarl.config.check import check
from viarl.config.runs import overlaid
from viarl.files import sha256_file
from viarl.models import files, vlm
from viarl.models import settings as model_settings
from viarl.models.families import attention_for
from viarl.models.files import (
    HASHES,
    INDEX,
    TEMPLATE,
    WEIGHTS,
    checkpoint_files,
    find,
    own_folder,
    pinned,
    weight_hashes,
)
from viarl.models.save import restore_weights, save_model
from viarl.models.vlm import Vlm
from viarl.stand_ins.architecture import CHAT_TEMPLATE

REPOSITORY = Path(__file__).resolve().parents[3]
DEFAULT = yaml.safe_load((REPOSITORY / "config.yaml").read_text())


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A checkpoint in several shards, as larger models are published."""
    folder = save_vlm(small_vlm(), tmp_path / "sharded", max_shard_size="100KB")
    assert len(list(folder.glob("model-0*-of-*.safetensors"))) > 2 and (folder / INDEX).exists()
    assert not (folder / "model.safetensors").exists()
    return folder


def configured(role: str = "answerer", **values: Any) -> None:
    check(overlaid(DEFAULT, {role: {"prompt": "paper", **values}, "device": values.pop("device", "auto")}))


def test_shards_are_loaded_hashed_and_restored(sharded: Path) -> None:
    expected = small_vlm().model.state_dict()
    loaded = Vlm.load(sharded, device="cpu").model
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in expected.items())
    shards = sorted(sharded.glob("*.safetensors"))
    assert {file.name for file in shards} == set(json.loads((sharded / INDEX).read_text())["weight_map"].values())
    assert weight_hashes(sharded) == [sha256_file(file) for file in shards] and weight_hashes(Path("a/b")) == []
    assert {INDEX, "config.json", *(file.name for file in shards)} <= {file.name for file in checkpoint_files(sharded)}
    torch.nn.init.zeros_(loaded.lm_head.weight)
    restore_weights(loaded, sharded)  # the checkpoints of a large model's training are sharded too
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in expected.items())
    configured(model=str(sharded))


def test_hashes_are_written_down_with_a_model_and_believed_as_long_as_sizes_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No weights are read twice for what depends on them."""
    small, folder = small_vlm(), tmp_path / "model"
    save_model(small.model, small.processor, folder)
    weights = folder / WEIGHTS
    written = json.loads((folder / HASHES).read_text())
    assert written[WEIGHTS] == {"size": weights.stat().st_size, "sha256": sha256_file(weights)}
    assert written.keys() | {HASHES} == {path.name for path in folder.iterdir()}
    assert max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns).name == HASHES  # it is written last
    monkeypatch.setattr(files, "sha256_file", lambda path: pytest.fail("read"))
    assert weight_hashes(folder) == [written[WEIGHTS]["sha256"]] and find(folder).name == str(folder)
    os.truncate(weights, 100)
    with pytest.raises(
        ValueError, match=rf"model is damaged \({WEIGHTS} has 100 bytes, not .*delete {weights} so that"
    ):
        find(folder)


def test_a_folder_of_ones_own_is_told_from_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "stand-in"):
        (tmp_path / name).mkdir()
    folders = {name: own_folder({"model": name}) for name in ("mine", "stand-in", "owner/name", "local-dir:mine", "a")}
    assert {name for name, found in folders.items() if found == Path("mine")} == {"mine", "local-dir:mine"}
    assert [found for found in folders.values() if found] == [Path("mine")] * 2


def test_a_lacking_or_damaged_shard_is_named(sharded: Path) -> None:
    second = sorted(sharded.glob("model-*"))[1]
    content = second.read_bytes()
    second.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"folder {sharded} is damaged .*download or copy it again, or name another"):
        Vlm.load(sharded, device="cpu")
    second.unlink()
    for look in (lambda: Vlm.load(sharded, device="cpu"), lambda: configured(model=str(sharded))):
        with pytest.raises(ValueError, match=second.name):
            look()
    (sharded / INDEX).write_text("[]")
    with pytest.raises(ValueError, match=r"index\.json, which is damaged"):
        find(sharded)


def test_a_revision_is_part_of_the_name_and_reaches_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pinned({"model": "a/b", "revision": None}) == pinned({"model": "a/b"}) == "a/b"
    name = pinned({"model": "Qwen/Qwen2.5-VL-3B-Instruct", "revision": "refs/pr/1"})
    asked: list[tuple[Any, ...]] = []
    small = small_vlm()

    def answered(part: Any) -> Any:
        return lambda name, **options: asked.append((name, options)) or part

    monkeypatch.setattr(vlm.AutoProcessor, "from_pretrained", answered(small.processor))
    monkeypatch.setattr(vlm, "model_class", lambda source: SimpleNamespace(from_pretrained=answered(small.model)))
    for model in (name, Path(name), "Qwen/Qwen2.5-VL-3B-Instruct"):
        Vlm.load(model, device="cpu")
    expected = {"revision": "refs/pr/1", "trust_remote_code": False}
    assert [asked_for for asked_for, _ in asked] == ["Qwen/Qwen2.5-VL-3B-Instruct"] * 6  # each the processor, the model
    assert asked[0][1] == asked[2][1] == expected and expected.items() <= asked[1][1].items() == asked[3][1].items()
    assert asked[4][1]["revision"] == asked[5][1]["revision"] == "main"


def test_the_revision_chooses_among_the_hubs_commits(tmp_path: Path) -> None:
    """Two commits in the hub's own cache layout, read by the real client without a network."""
    home = tmp_path / "hub" / "models--owner--name"
    for commit, ref, value in (("a" * 40, "main", 1.0), ("b" * 40, "v1", 2.0)):
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / ref).write_text(commit)
        small = small_vlm()
        model = small.model
        before = model.lm_head.weight.data.clone()
        model.lm_head.weight.data.fill_(value)
        save_vlm(small, home / "snapshots" / commit)
        model.lm_head.weight.data.copy_(before)
    script = (
        "from viarl.models.vlm import Vlm\n"
        "for name in ('owner/name', 'owner/name@v1', 'owner/name@' + 'b' * 40):\n"
        "    print(float(Vlm.load(name, device='cpu').model.lm_head.weight[0, 0]))\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["1.0", "2.0", "2.0"]
    assert f"owner/name is at commit {'a' * 40}" in done.stderr and f"at commit {'b' * 40}" in done.stderr


RENDERED = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHAT_TEMPLATE}]
TEXT_ALONE = "{% for one in messages %}{{ '<|im_start|>' + one['role'] + one['content'] }}{% endfor %}"


def with_template(folder: Path, name: str, template: Any) -> Path:
    """A checkpoint folder whose chat template lies in the file of that name alone."""
    save_vlm(small_vlm(), folder)
    (folder / TEMPLATE).unlink()
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".json":
        template = json.dumps((json.loads(path.read_text()) if path.exists() else {}) | {"chat_template": template})
    path.write_text(template)
    return folder


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("tokenizer_config.json", CHAT_TEMPLATE),
        ("tokenizer_config.json", RENDERED),
        ("processor_config.json", CHAT_TEMPLATE),
        ("chat_template.json", CHAT_TEMPLATE),
        ("chat_template.jinja", CHAT_TEMPLATE),
        ("additional_chat_templates/default.jinja", CHAT_TEMPLATE),
    ],
)
def test_a_chat_template_is_found_wherever_it_lies(tmp_path: Path, name: str, template: Any) -> None:
    folder = with_template(tmp_path / "model", name, template)
    configured(model=str(folder))
    chat = answerer_messages("short", "Which?", ("star", "moon"), False)
    loaded = Vlm.load(folder, device="cpu")
    assert torch.equal(loaded.prompt(chat).input_ids, small_vlm().prompt(chat).input_ids)
    again = Vlm.load(save_vlm(loaded, tmp_path / "again"), device="cpu")  # and stays with the model that is made of it
    assert torch.equal(again.prompt(chat).input_ids, small_vlm().prompt(chat).input_ids)


@pytest.mark.parametrize(
    ("name", "template", "reason"),
    [
        ("tokenizer_config.json", None, "does not have a chat template"),
        ("tokenizer_config.json", RENDERED[:1], "does not have a chat template"),
        ("chat_template.json", {}, "does not have a chat template"),
        ("chat_template.jinja", TEXT_ALONE, "can only concatenate str"),
        ("chat_template.jinja", "{% for one in messages %}<|im_start|>{% endfor %}", "leaves out a video"),
        ("chat_template.jinja", "{% for one in messages %}", "Unexpected end of template"),
    ],
)
def test_a_folder_without_a_usable_chat_template_is_refused_before_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, template: Any, reason: str
) -> None:
    folder = with_template(tmp_path / "model", name, template)
    never = SimpleNamespace(from_pretrained=lambda *_, **__: pytest.fail("weights were loaded"))
    monkeypatch.setattr(vlm, "model_class", lambda source: never)
    with pytest.raises(
        ValueError, match=rf"^{folder} has no usable chat template \({TEMPLATE}.*{reason}.*; copy {TEMPLATE}"
    ):
        Vlm.load(folder, device="cpu")
    if name != TEMPLATE:
        with pytest.raises(
            ValueError, match=rf"answerer.model = '{folder}': .*no chat template \({TEMPLATE}, .*; copy"
        ):
            configured(model=str(folder))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"revision": "main"}, r"revision = 'main': only a hub id has revisions, and answerer.model is 'stand-in'"),
        ({"model": "a/b", "revision": "a b"}, r"answerer.revision = 'a b': no branch, tag or commit"),
        ({"model": "a/b", "revision": "-x"}, r"answerer.revision = '-x': no branch"),
        ({"model": "a/b@v1"}, r"answerer.model = 'a/b@v1': the revision stands in answerer.revision"),
    ],
)
def test_revisions_that_cannot_be_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(overlaid(DEFAULT, {"answerer": {"prompt": "paper" if "model" in values else "short", **values}}))


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    """A folder whose files name classes of its own: they are left alone."""
    folder = save_vlm(small_vlm(), tmp_path / "model")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        kinds = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoVideoProcessor", "AutoImageProcessor")
        content["auto_map"] = dict.fromkeys(kinds, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
        (folder / name).write_text(json.dumps(content))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    loaded = Vlm.load(folder, device="cpu")
    assert loaded.model.config.model_type == "qwen2_5_vl"
    assert type(loaded.processor).__name__ == "Qwen2_5_VLProcessor"
    assert not (tmp_path / "ran").exists()
    sources = [path for path in (REPOSITORY / "workflow").rglob("*.py") if "trust_remote_code" in path.read_text()]
    assert [path.relative_to(REPOSITORY).as_posix() for path in sources] == [
        "workflow/viarl/models/files.py"
    ]  # where it is set to False


def test_attention_by_device_type_and_package(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert attention_for("eager", "float32", cpu) == "eager"
    for installed in (False, True):
        monkeypatch.setattr(model_settings.importlib.util, "find_spec", lambda name, there=installed: there or None)
        kinds = {(dtype, device): attention_for("auto", dtype, device) for dtype in ("float32", "bfloat16")
                 for device in (cpu, gpu)}  # fmt: skip
        assert {key for key, kind in kinds.items() if kind == "flash_attention_2"} == (
            {("bfloat16", gpu)} if installed else set()
        )
        for dtype, device, message in (
            ("bfloat16", cpu, "it needs a GPU"),
            ("float32", gpu, "weights in bfloat16, and these are float32"),
            ("bfloat16", gpu, None if installed else "flash_attn is not installed"),
        ):
            if message:
                with pytest.raises(ValueError, match=f"flash_attention_2: .*{message}.*set attention: auto or sdpa"):
                    attention_for("flash_attention_2", dtype, device)
    assert attention_for("flash_attention_2", "bfloat16", gpu) == "flash_attention_2"


def test_a_demanded_flash_attention_is_refused_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_vlm(small_vlm(), tmp_path / "model")
    monkeypatch.setattr(vlm, "model_class", lambda source: pytest.fail("looked for a class"))
    with pytest.raises(ValueError, match="it needs a GPU, and the device is cpu"):
        Vlm.load(folder, "bfloat16", "flash_attention_2", "cpu")
    monkeypatch.setattr(model_settings.importlib.util, "find_spec", lambda name: None)
    demanded = {"model": "a/b", "attention": "flash_attention_2", "dtype": "bfloat16"}
    for device, changes, message in (
        ("cpu", {}, "it needs a GPU"),
        ("cuda", {}, r"flash_attn is not installed"),
        ("cuda", {"dtype": "float32"}, "weights in bfloat16"),
        ("auto", {}, r"without answerer.lora all weights are trained, in float32"),
    ):
        overlay = {"device": device, "answerer": {"prompt": "paper", **demanded, **changes}}
        with pytest.raises(ValueError, match=f"answerer.attention = 'flash_attention_2': .*{message}.*set it to auto"):
            check(overlaid(DEFAULT, overlay))
    lora = {"lora": {"enabled": True}}
    check(overlaid(DEFAULT, {"answerer": {"prompt": "paper", **demanded, **lora}}))
