"""Where models lie and what they are: folders by kind, files of model paths, the list, and parts that lie alone."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from test_identify import load

import graphengine
from graphengine import Engine, NodeError
from graphengine.cli import console, main
from graphengine.errors import AssetError, CheckpointError, GraphEngineError
from graphengine.models import alone, checkpoint, library, part_source
from graphengine.models.inventory import inventory
from graphengine.models.memory import ModelMemory
from graphengine.models.weights import TensorInfo, read_header
from graphengine.testing import settings
from graphengine.values import VAE, Denoiser, Latent, LatentSpace, TextEncoder

TINY = library.BUNDLED / "tiny"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty model folder."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def own(tmp_path: Path, models: Path):
    return settings(tmp_path)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of gigabytes that hold nothing are not read to the end."""
    monkeypatch.setattr(alone, "remembered_digest", lambda path, folder: str(path))


def write(path: Path, tensors: dict[str, TensorInfo]) -> Path:
    """A safetensors file of zeros that takes no room on the disk."""
    header, end = {}, 0
    for name, info in tensors.items():
        start, end = end, end + info.numbers * 2
        header[name] = {"dtype": "F16", "shape": list(info.shape), "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    return path


def published(path: Path, name: str) -> Path:
    """A file with the names and shapes of a published one."""
    return write(path, load(name)[0])


def empty(path: Path) -> Path:
    return write(path, {"weight": TensorInfo("F16", (2, 2))})


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


# Parts that lie alone


def test_a_part_of_a_whole_checkpoint_is_that_of_the_checkpoint(own):
    handles = checkpoint.find("tiny", own).handles()
    assert tuple(alone.find("tiny", role, own) for role in ("denoiser", "text_encoder", "vae")) == handles


def test_a_part_within_a_whole_checkpoint_is_that_of_the_checkpoint(own):
    assert alone.find("tiny/vae", "vae", own) == checkpoint.find("tiny", own).handles()[2]


def test_a_vae_alone_decodes_as_in_its_checkpoint(models, own):
    shutil.copytree(TINY / "vae", models / "vae" / "mine")
    mine, whole = alone.find("mine", "vae", own), checkpoint.find("tiny", own).handles()[2]
    assert isinstance(mine, VAE) and mine.alone and whole.space
    samples = torch.randn(1, whole.space.channels, 4, 4, generator=torch.Generator().manual_seed(0))
    memory = ModelMemory(own)
    assert (memory.vae(mine).decode(samples) == memory.vae(whole).decode(samples)).all()


@pytest.mark.parametrize(
    ("fixture", "kind", "channels"),
    [
        ("kl_4_vae_ldm", "sd", 4),
        ("kl_4_vae_ldm", "sdxl", 4),
        ("kl_4_vae", "sdxl", 4),
        ("kl_16_vae_ldm", "flux", 16),
        ("kl_16_vae", "sd3", 16),
    ],
)
def test_a_vae_in_a_file_has_the_latents_that_the_caller_says(models, own, unread, fixture, kind, channels):
    published(models / "vae" / "a.safetensors", fixture)
    found = alone.find("a.safetensors", "vae", own, kind)
    assert isinstance(found, VAE) and found.space == LatentSpace(channels, 8, kind)


def test_a_vae_in_a_file_that_may_be_either_asks_which(models, own):
    published(models / "vae" / "a.safetensors", "kl_4_vae_ldm")
    with pytest.raises(CheckpointError, match="of sd or sdxl, which look alike; set `kind`"):
        alone.find("a.safetensors", "vae", own)


def test_a_vae_in_a_file_is_not_taken_for_one_of_other_channels(models, own):
    published(models / "vae" / "a.safetensors", "kl_4_vae_ldm")
    with pytest.raises(CheckpointError, match="4 channels, of sd or sdxl, not flux"):
        alone.find("a.safetensors", "vae", own, "flux")


def test_two_scalings_of_one_file_are_two_models(models, own, unread):
    published(models / "vae" / "a.safetensors", "kl_4_vae_ldm")
    made = [alone.find("a.safetensors", "vae", own, kind).digest for kind in ("sd", "sdxl")]
    assert made[0] != made[1]


def meta_network(part: str, config: dict):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        made = {"vae": AutoencoderKL, "unet": UNet2DConditionModel}[part].from_config(config)
    return {name: tensor.shape for name, tensor in made.state_dict().items()}


@pytest.mark.parametrize(
    ("fixture", "role", "kind"),
    [
        ("kl_4_vae_ldm", "vae", "sd"),
        ("kl_16_vae_ldm", "vae", "flux"),
        ("kl_4_vae", "vae", "sdxl"),
        ("sdxl_ldm_unet", "denoiser", "auto"),
        ("sd1_diffusers", "denoiser", "auto"),
        ("sd1_inpaint_diffusers", "denoiser", "auto"),
    ],
)
def test_every_tensor_of_a_part_finds_its_place(models, monkeypatch, fixture, role, kind):
    def lazily(files, dtype, prefix):
        infos = {name: info for name, info in read_header(files[0]).items() if name.startswith(prefix)}
        return {name.removeprefix(prefix): torch.empty(i.shape, device="meta") for name, i in infos.items()}

    monkeypatch.setattr(part_source, "load_tensors", lazily)
    source = alone._source(published(models / "a.safetensors", fixture), role, kind)
    found = {name: tensor.shape for name, tensor in source.tensors(source.part, torch.float32).items()}
    assert found == meta_network(source.part, source.config(source.part))


def test_a_u_net_in_a_file_reads_the_prompts_and_latents_of_its_model(models, own, unread):
    published(models / "unet" / "a.safetensors", "sdxl_ldm_unet")
    found = alone.find("a.safetensors", "denoiser", own)
    assert isinstance(found, Denoiser)
    assert (found.family, found.prompts, found.space) == ("stable_diffusion_xl", "sdxl", LatentSpace(4, 8, "sdxl"))


def test_a_u_net_in_a_folder_of_its_own_loads(models, own):
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    config = {"block_out_channels": (8,), "norm_num_groups": 4, "layers_per_block": 1, "cross_attention_dim": 768}
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    made = UNet2DConditionModel(**config, **blocks, attention_head_dim=2)  # pyright: ignore[reportArgumentType]
    made.save_pretrained(models / "diffusion_models" / "small")
    found = alone.find("small", "denoiser", own)
    assert isinstance(found, Denoiser) and found.vae() is None and found.prompts == "sd1"
    loaded = ModelMemory(own).denoiser(found).network  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(loaded.conv_in.weight, made.conv_in.weight)


def test_a_partial_checkpoint_keeps_its_own_scheduler(models, own):
    shutil.copytree(TINY / "unet", models / "part" / "unet")
    config = json.loads((models / "part" / "unet" / "config.json").read_text())
    (models / "part" / "unet" / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 768}))
    (models / "part" / "scheduler").mkdir()
    (models / "part" / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    found = alone.find("part", "denoiser", own)
    assert alone.source_of(found).scheduler == {"prediction_type": "v_prediction"}


@pytest.mark.parametrize("role", ["denoiser", "text_encoder"])
def test_a_part_that_does_not_say_enough_is_refused(models, own, role):
    part = "unet" if role == "denoiser" else role
    shutil.copytree(TINY / part, models / "mine")
    with pytest.raises(CheckpointError, match="Load it from a whole checkpoint"):
        alone.find("mine", role, own)


def test_a_denoiser_of_a_family_that_is_not_driven_is_refused_by_name(models, own):
    published(models / "unet" / "a.safetensors", "wan_t2v_14b_original")
    with pytest.raises(CheckpointError, match=r"denoiser of wan \(wan_t2v_14b\)"):
        alone.find("a.safetensors", "denoiser", own)


def test_a_clip_text_encoder_in_a_file_encodes(models, own, unread):
    published(models / "text_encoders" / "a.safetensors", "clip_l")
    found = alone.find("a.safetensors", "text_encoder", own)
    assert isinstance(found, TextEncoder) and found.kind == "sd1"
    assert ModelMemory(own).text_encoder(found).encode("a cat").features.shape == (1, 77, 768)


def test_a_part_whose_weights_are_a_link_out_is_refused(models, own):
    shutil.copytree(TINY / "vae", models / "vae" / "mine")
    weights = models / "vae" / "mine" / "diffusion_pytorch_model.safetensors"
    shutil.move(weights, models.parent / "secret.safetensors")
    weights.symlink_to(models.parent / "secret.safetensors")
    with pytest.raises(CheckpointError, match="leads out"):
        alone.find("mine", "vae", own)


def test_a_part_that_has_changed_since_fails_the_run(models, own):
    shutil.copytree(TINY / "vae", models / "vae" / "mine")
    found = alone.find("mine", "vae", own)
    config = json.loads((models / "vae" / "mine" / "config.json").read_text())
    (models / "vae" / "mine" / "config.json").write_text(json.dumps(config | {"scaling_factor": 2.0}))
    assert isinstance(found, VAE)
    with pytest.raises(CheckpointError, match="was changed while the run went on"):
        ModelMemory(own).vae(found)


def test_a_file_that_holds_no_vae_says_what_it_holds(models, own):
    published(models / "vae" / "a.safetensors", "sd1_lora_kohya")
    with pytest.raises(CheckpointError, match="holds no vae that can be loaded alone, but a lora of stable_diffusion"):
        alone.find("a.safetensors", "vae", own)


def test_an_old_config_without_a_scaling_is_that_of_stable_diffusion(own):
    config = {"_class_name": "AutoencoderKL", "latent_channels": 4, "block_out_channels": [128, 256, 512, 512]}
    made = checkpoint.Checkpoint("x", Path("x"), "stable_diffusion", "0", {"vae": config})
    assert made.space == LatentSpace(4, 8, "sd")


def nodes(loaders: dict, denoiser: str, encoder: str, vae: str) -> dict:
    prompt = {"from": "prompt.conditioning"}
    sampler = {"denoiser": {"from": denoiser}, "positive": prompt, "latent": {"from": "empty.latent"}}
    made = loaders | {
        "prompt": {"type": "EncodeText", "inputs": {"encoder": {"from": encoder}, "text": "a red star"}},
        "empty": {"type": "EmptyLatent", "inputs": {"vae": {"from": vae}}},
        "sample": {"type": "Sampler", "inputs": sampler | {"guidance": 1.0, "steps": 2}},
        "decode": {"type": "VAEDecode", "inputs": {"vae": {"from": vae}, "latent": {"from": "sample.latent"}}},
    }
    return {"graphengine": 1, "name": "w", "nodes": made, "outputs": {"image": {"from": "decode.image"}}}


def test_three_loaders_draw_what_one_draws(own):
    whole = {"load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "tiny"}}}
    apart = {
        "d": {"type": "LoadDenoiser", "inputs": {"denoiser": "tiny"}},
        "t": {"type": "LoadTextEncoder", "inputs": {"text_encoder": "tiny"}},
        "v": {"type": "LoadVAE", "inputs": {"vae": "tiny"}},
    }
    with Engine(settings=own, cached=False) as engine:
        run = partial(nodes, whole, "load.denoiser", "load.text_encoder", "load.vae")
        first = engine.submit(run()).result()["image"]
        second = engine.submit(nodes(apart, "d.denoiser", "t.text_encoder", "v.vae")).result()["image"]
    assert (first.pixels == second.pixels).all()


def test_a_vae_of_another_space_is_refused_before_anything_loads(models, own, unread, monkeypatch):
    published(models / "vae" / "a.safetensors", "kl_4_vae_ldm")
    loaders = {
        "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "tiny"}},
        "v": {"type": "LoadVAE", "inputs": {"vae": "a.safetensors", "kind": "sdxl"}},
        "empty": {"type": "EmptyLatent", "inputs": {"vae": {"from": "load.vae"}}},
        "decode": {
            "type": "VAEDecode",
            "inputs": {"vae": {"from": "v.vae"}, "latent": {"from": "empty.latent"}},
        },
    }
    monkeypatch.setattr(ModelMemory, "_part", lambda *_: pytest.fail("a model was loaded"))
    document = {"graphengine": 1, "name": "w", "nodes": loaders, "outputs": {"image": {"from": "decode.image"}}}
    with Engine(settings=own) as engine, pytest.raises(NodeError, match="belongs to another model"):
        engine.submit(document).result()


def test_a_part_that_is_not_there_is_told_with_the_nearest_name(own):
    with pytest.raises(GraphEngineError, match="Did you mean tiny"):
        alone.find("tinny", "vae", own)


def test_a_latent_carries_the_space_of_the_vae(models, own, unread):
    published(models / "vae" / "a.safetensors", "kl_16_vae")
    found = alone.find("a.safetensors", "vae", own, "flux")
    assert isinstance(found, VAE) and found.space
    assert Latent(torch.zeros(1, 16, 1, 1), found.space).space.kind == "flux"
