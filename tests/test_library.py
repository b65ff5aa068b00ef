"""Where models lie and what they are: folders by kind, files of model paths, and the list."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from model_files import empty, published

import graphengine
from graphengine.cli import console, main
from graphengine.errors import AssetError, CheckpointError
from graphengine.models import checkpoint, library
from graphengine.models import inventory as inventory_module
from graphengine.models.inventory import inventory
from graphengine.models.weights import read_header
from graphengine.testing import settings

TINY = library.BUNDLED / "tiny"


def rows(own) -> dict:
    return {entry.name: entry for entry in inventory(own)}


def paths_file(folder: Path, text: str) -> Path:
    (folder / "extra_model_paths.yaml").write_text(text)
    return folder / "extra_model_paths.yaml"


# Folders by kind


@pytest.mark.parametrize(("folder", "kind"), [(f, k) for k, names in library.KINDS.items() for f in names])
def test_a_kind_is_looked_for_in_the_folders_of_its_names(models, own, folder, kind):
    path = empty(models / folder / "a.safetensors")
    assert library.find_file("a.safetensors", kind, own) == path


def test_a_name_may_hold_a_subfolder(models, own):
    path = empty(models / "loras" / "sd" / "a.safetensors")
    assert library.find_file("sd/a.safetensors", "loras", own) == path


def test_a_checkpoint_is_found_in_the_folder_of_checkpoints(models, own):
    shutil.copytree(TINY, models / "checkpoints" / "sd" / "mine")
    assert checkpoint.find("sd/mine", own).family == "stable_diffusion"


def test_a_file_that_lies_beside_the_folders_is_found_too(models, own):
    path = empty(models / "a.safetensors")
    assert library.find_file("a.safetensors", "loras", own) == path


def test_a_folder_of_a_kind_comes_before_what_lies_beside_it(models, own):
    empty(models / "a.safetensors")
    path = empty(models / "loras" / "a.safetensors")
    assert library.find_file("a.safetensors", "loras", own) == path


def test_a_file_of_another_kind_is_not_found(models, own):
    empty(models / "vae" / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"no file 'a\.safetensors' among the loras"):
        library.find_file("a.safetensors", "loras", own)


def test_the_nearest_name_is_told_with_its_subfolder(models, own):
    empty(models / "loras" / "sd" / "style.safetensors")
    with pytest.raises(CheckpointError, match=r"Did you mean sd/style\.safetensors"):
        library.find_file("sd/stile.safetensors", "loras", own)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "sd/../../../secret.safetensors", ""])
def test_no_name_leads_out(models, own, name):
    empty(models.parent / "secret.safetensors")
    with pytest.raises(AssetError):
        library.find_file(name, "loras", own)


def test_a_link_that_leads_out_is_refused(models, own):
    secret = empty(models.parent / "secret.safetensors")
    (models / "loras").mkdir()
    (models / "loras" / "a.safetensors").symlink_to(secret)
    with pytest.raises(AssetError, match="outside"):
        library.find_file("a.safetensors", "loras", own)


def test_a_folder_that_is_a_link_out_is_refused(models, own):
    empty(models.parent / "elsewhere" / "a.safetensors")
    (models / "loras").symlink_to(models.parent / "elsewhere")
    with pytest.raises(AssetError, match="outside"):
        library.find_file("a.safetensors", "loras", own)


# Files of model paths


def test_a_file_of_model_paths_names_folders_by_kind(tmp_path, own):
    path = empty(tmp_path / "ui" / "models" / "Lora" / "a.safetensors")
    file = paths_file(tmp_path, "a1111:\n    base_path: ui/\n    loras: models/Lora\n")
    own = own.model_copy(update={"model_paths_file": file})
    assert library.find_file("a.safetensors", "loras", own) == path


def test_a_file_of_model_paths_may_stand_among_the_model_folders(tmp_path, own):
    path = empty(tmp_path / "ui" / "a.safetensors")
    own = own.model_copy(update={"model_folders": (paths_file(tmp_path, "mine:\n  vae: ui\n"),)})
    assert library.find_file("a.safetensors", "vae", own) == path


def test_a_key_may_hold_several_lines_and_remarks(tmp_path, own):
    text = "mine:\n  base_path: ui\n  loras: |\n    one\n    two  # the old ones\n    # none\n"
    own = own.model_copy(update={"model_paths_file": paths_file(tmp_path, text)})
    path = empty(tmp_path / "ui" / "two" / "b.safetensors")
    assert library.find_file("b.safetensors", "loras", own) == path


@pytest.mark.parametrize(("old", "kind"), [("clip", "text_encoders"), ("unet", "diffusion_models")])
def test_the_old_names_of_kinds_are_understood(tmp_path, own, old, kind):
    own = own.model_copy(update={"model_paths_file": paths_file(tmp_path, f"mine:\n  {old}: ui\n")})
    path = empty(tmp_path / "ui" / "a.safetensors")
    assert library.find_file("a.safetensors", kind, own) == path


def test_a_default_section_comes_first(tmp_path, models, own):
    empty(models / "loras" / "a.safetensors")
    text = "mine:\n  is_default: true\n  loras: ui\n"
    own = own.model_copy(update={"model_paths_file": paths_file(tmp_path, text)})
    path = empty(tmp_path / "ui" / "a.safetensors")
    assert library.find_file("a.safetensors", "loras", own) == path


def test_other_sections_come_after_the_model_folders(tmp_path, models, own):
    empty(tmp_path / "ui" / "a.safetensors")
    own = own.model_copy(update={"model_paths_file": paths_file(tmp_path, "mine:\n  loras: ui\n")})
    path = empty(models / "loras" / "a.safetensors")
    assert library.find_file("a.safetensors", "loras", own) == path


@pytest.mark.parametrize("base", ["~/ui", "$PLACE/ui", "${PLACE}/ui"])
def test_home_and_variables_stand_for_folders(tmp_path, own, monkeypatch, base):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", str(tmp_path))
    own = own.model_copy(update={"model_paths_file": paths_file(tmp_path, f"mine:\n  base_path: {base}\n  vae: v\n")})
    path = empty(tmp_path / "ui" / "v" / "a.safetensors")
    assert library.find_file("a.safetensors", "vae", own) == path


def test_the_setting_is_read_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHENGINE_MODEL_PATHS_FILE", str(tmp_path / "p.yaml"))
    assert graphengine.Settings.load().model_paths_file == tmp_path / "p.yaml"


def test_keys_that_name_no_models_are_left_alone(tmp_path, own):
    text = "mine:\n  base_path: ui\n  custom_nodes: custom_nodes\n  configs: c\nother:\n"
    own = own.model_copy(update={"model_paths_file": paths_file(tmp_path, text)})
    assert len(library.places(own)) == len(library.places(settings(tmp_path)))


@pytest.mark.parametrize("kind", ["embeddings", "clip_vision", "controlnet"])
def test_no_checkpoint_is_named_to_who_looks_for_a_part_or_a_file(models, own, kind):
    told = f"there is no thing 'tinny'. Put it into the folder '{kind}' of a model folder."
    with pytest.raises(CheckpointError, match=told):
        library.find_part("tinny", kind, own, "thing")
    empty(models / kind / "tinted.safetensors")
    with pytest.raises(CheckpointError, match=r"Did you mean tinted\.safetensors\?"):
        library.find_file("tintet.safetensors", kind, own)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("mine:\n  loras: [a\n", "line 3"),
        ("mine:\n  loras: a\n\tvae: b\n", "line 3"),
        ("- a\n", "line 1"),
        ("one:\n  vae: a\ntwo: here\n", "line 3"),
        ("mine:\n  base_path: 3\n", "line 2"),
        ("mine:\n  vae: a\n  is_default: maybe\n", "line 3"),
        ("mine:\n  vae: a\n  loras:\n    deep: b\n", "line 3"),
        ("mine: !!python/object/apply:os.system ['true']\n", "line 1"),
    ],
)
def test_a_bad_file_of_model_paths_is_told_with_its_line(tmp_path, own, text, line):
    own = own.model_copy(update={"model_paths_file": paths_file(tmp_path, text)})
    with pytest.raises(AssetError, match=rf"extra_model_paths\.yaml, {line}:"):
        library.places(own)


def test_a_file_of_model_paths_that_is_not_there_is_told(tmp_path, own):
    with pytest.raises(AssetError, match=r"none\.yaml cannot be read"):
        library.places(own.model_copy(update={"model_paths_file": tmp_path / "none.yaml"}))


def test_no_line_leads_out_of_a_named_folder(tmp_path, own):
    empty(tmp_path / "a.safetensors")
    own = own.model_copy(update={"model_paths_file": paths_file(tmp_path, "mine:\n  vae: ui\n")})
    with pytest.raises(AssetError):
        library.find_file("../a.safetensors", "vae", own)


# The list


@pytest.mark.parametrize(
    ("fixture", "folder", "kind", "family"),
    [
        ("sd1_checkpoint", "checkpoints", "checkpoint", "stable_diffusion"),
        ("sdxl_ldm_unet", "unet", "denoiser", "stable_diffusion_xl"),
        ("kl_4_vae_ldm", "vae", "vae", "stable_diffusion"),
        ("sd1_lora_kohya", "loras", "lora", "stable_diffusion"),
        ("clip_l", "clip", "text_encoder", "clip"),
    ],
)
def test_a_file_is_listed_with_what_it_is(models, own, fixture, folder, kind, family):
    published(models / folder / "a.safetensors", fixture)
    entry = rows(own)["a.safetensors"]
    assert (entry.kind, entry.family, entry.wrong, list(entry.formats)) == (kind, family, "", ["F16"])


def test_a_checkpoint_in_a_folder_is_listed_with_all_its_parameters(own):
    files = TINY.glob("*/*.safetensors")
    wanted = sum(info.numbers for file in files for info in read_header(file).values())
    entry = rows(own)["tiny"]
    assert (entry.kind, entry.family, entry.parameters, entry.wrong) == ("checkpoint", "stable_diffusion", wanted, "")


def test_a_part_in_a_folder_of_its_own_is_listed(models, own):
    shutil.copytree(TINY / "vae", models / "vae" / "mine")
    assert rows(own)["mine"].kind == "vae"


def test_what_a_checkpoint_lacks_is_told(models, own):
    shutil.copytree(TINY, models / "mine")
    shutil.rmtree(models / "mine" / "vae")
    assert rows(own)["mine"].wrong == "it lacks vae."


def test_a_file_that_has_changed_is_read_anew_and_one_that_has_not_is_not(models, own, monkeypatch):
    path, reads = models / "vae" / "a.safetensors", []
    published(path, "kl_4_vae_ldm")
    assert rows(own)["a.safetensors"].kind == "vae"
    monkeypatch.setattr(inventory_module, "read_header", lambda path: reads.append(path.name) or read_header(path))
    assert rows(own)["a.safetensors"].kind == "vae" and "a.safetensors" not in reads
    published(path, "sd1_lora_kohya")
    assert rows(own)["a.safetensors"].kind == "lora" and "a.safetensors" in reads


def test_a_denoiser_by_itself_is_listed_as_one(models, own):
    shutil.copytree(TINY / "unet", models / "mine" / "unet")
    entry = rows(own)["mine"]
    assert (entry.kind, entry.family, entry.wrong) == ("denoiser", "stable_diffusion", "")


def test_nothing_is_wrong_with_what_ships(own):
    listed = {name: (entry.kind, entry.wrong) for name, entry in rows(own).items()}
    assert listed == {
        "tiny": ("checkpoint", ""),
        "tiny-dit": ("denoiser", ""),
        "tiny-edit": ("checkpoint", ""),
        "tiny-open.safetensors": ("lora", ""),
        "tiny-few-step.safetensors": ("lora", ""),
        "tiny-few-step-control.safetensors": ("lora", ""),
    }


def test_what_is_wrong_with_a_model_is_a_sentence_of_its_own_below_the_list(models, capsys):
    path = empty(models / "loras" / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-2])
    assert call("models") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("a.safetensors: loras/a.safetensors is truncated")


def test_a_damaged_file_is_a_row_with_its_sentence(models, own):
    path = empty(models / "loras" / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-2])
    assert "2 bytes are missing" in rows(own)["a.safetensors"].wrong


@pytest.mark.parametrize("config", ["[]", "{", '{"_class_name": 3, "hidden_size": []}', "\x00"])
def test_a_damaged_config_is_a_row(models, own, config):
    shutil.copytree(TINY, models / "mine")
    (models / "mine" / "unet" / "config.json").write_text(config)
    assert rows(own)["mine"].wrong


@pytest.mark.parametrize("header", [b"", b"[]", b"{}", b'{"a": 1}', b'{"a": {"dtype": [], "shape": {}}}', b"\xff\xfe"])
def test_no_header_stops_the_list(models, own, header):
    (models / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert rows(own)["a.safetensors"].wrong


def test_a_pickle_is_listed_and_refused(models, own):
    (models / "old.ckpt").write_bytes(b"\x80\x04.")
    assert "can run code" in rows(own)["old.ckpt"].wrong


def test_a_family_that_is_not_supported_is_told(models, own):
    published(models / "checkpoints" / "w.safetensors", "wan_t2v_1_3b_original")
    assert rows(own)["w.safetensors"].wrong == "the family wan is not supported."


def test_a_file_in_a_folder_of_another_kind_is_told(models, own):
    published(models / "loras" / "a.safetensors", "sd1_checkpoint")
    assert rows(own)["a.safetensors"].wrong == "this is a checkpoint, and lies among the loras."


def test_a_link_that_leads_out_is_a_row(models, own):
    (models / "a.safetensors").symlink_to(empty(models.parent / "secret.safetensors"))
    entry = rows(own)["a.safetensors"]
    assert "outside" in entry.wrong and entry.parameters == 0


def test_a_circle_of_links_does_not_stop_the_list(models, own):
    (models / "a").symlink_to(models)
    (models / "b.safetensors").symlink_to(models / "b.safetensors")
    assert "tiny" in rows(own)


def test_of_two_files_with_one_name_the_hidden_one_says_so(tmp_path, models, own):
    empty(models / "loras" / "a.safetensors")
    empty(tmp_path / "ui" / "a.safetensors")
    own = own.model_copy(update={"model_paths_file": paths_file(tmp_path, "mine:\n  loras: ui\n")})
    found = [entry.wrong for entry in inventory(own) if entry.name == "a.safetensors"]
    assert ["comes before it" in wrong for wrong in found] == [False, True]


def test_a_named_folder_that_is_not_there_is_a_row(tmp_path, own):
    own = own.model_copy(update={"model_paths_file": paths_file(tmp_path, "mine:\n  loras: nowhere\n")})
    assert "there is no folder" in rows(own)["nowhere"].wrong


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_the_command_prints_a_row_for_each_model(models, capsys, monkeypatch):
    monkeypatch.setattr(console.out, "_width", 200)
    published(models / "vae" / "kl.safetensors", "kl_4_vae_ldm")
    assert call("models") == 0
    row = next(row for row in capsys.readouterr().out.splitlines() if row.startswith("kl.safetensors"))
    assert row.split() == ["kl.safetensors", "vae", "stable_diffusion", "(kl_4)", "83.7", "M", "F16", "159.6", "MiB"]


def test_the_command_gives_json(capsys):
    assert call("models", "--json") == 0
    names = {entry["name"] for entry in json.loads(capsys.readouterr().out)["models"]}
    loras = {f"{name}.safetensors" for name in ("tiny-open", "tiny-few-step", "tiny-few-step-control")}
    assert names == {"tiny", "tiny-dit", "tiny-edit"} | loras


def test_the_command_tells_the_digest_of_a_named_model(models, capsys):
    import hashlib

    path = empty(models / "a.safetensors")
    assert call("models", "a.safetensors") == 0
    assert hashlib.sha256(path.read_bytes()).hexdigest() in capsys.readouterr().out


def test_the_command_tells_a_name_that_is_not_there(capsys):
    assert call("models", "tinny") == 2
    assert "Did you mean tiny?" in capsys.readouterr().err


def test_what_a_file_is_called_does_not_move_the_cursor(models, capsys):
    empty(models / "a\x1b[2J.safetensors")
    assert call("models") == 0
    assert "\x1b" not in capsys.readouterr().out


def test_the_command_imports_no_torch():
    script = (
        "import sys\nfrom graphengine.cli import main\n"
        "try:\n    main(['models'])\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, capture_output=True)
