"""Writes the fixtures: names and shapes of published files.

    python tests/layouts/make.py

Nothing is downloaded.  Every tensor of a file is in its fixture, and equal blocks share a line: `{0-18}` stands for
each of the numbers from 0 to 18.  What is expected of a file is written here, and not what the engine says.
"""

import builders as known
from builders import HERE, below, clip, esrgan, ip_adapter, kronecker, low_rank, made, open_clip, products, t5, write
from renames import AURA, JOINT, LUMINA, SANA, VAE, WAN, Z_IMAGE, Shapes, bfl, ldm, renamed

UNET, FIRST = "model.diffusion_model.", "first_stage_model."
ATTENTION = r"attn[12]\.to_|proj_in$|proj_out$|ff\.net\.\d(\.proj)?$"
BLOCKS = r"attn\.(to|add)_|ff(_context)?\.net\.\d(\.proj)?$|proj_mlp$"
TEXT = r"self_attn\.|mlp\.fc"


def unet(**config: object) -> Shapes:
    return made("UNet2DConditionModel", **config)


def unets() -> None:
    """The U-Nets in both layouts, alone and in whole checkpoints."""
    vae = below(FIRST, renamed(made("AutoencoderKL", **known.KL), VAE))
    vae = {name: (*shape, 1, 1) if len(shape) == 2 else shape for name, shape in vae.items()}
    small, big, huge = clip(768, 12, 12), open_clip(1280, 32), open_clip(1024, 24)
    first = below("cond_stage_model.transformer.", small)
    second = below("cond_stage_model.model.", huge)
    both = below("conditioner.embedders.0.transformer.", small) | below("conditioner.embedders.1.model.", big)
    refining = below("conditioner.embedders.0.model.", big)
    for variant, config, texts, encoders in (
        ("sd1", known.SD1, first, {"clip_l": "cond_stage_model.transformer."}),
        ("sd1_inpaint", known.SD1 | {"in_channels": 9}, first, {"clip_l": "cond_stage_model.transformer."}),
        ("sd1_instruct", known.SD1 | {"in_channels": 8}, first, {"clip_l": "cond_stage_model.transformer."}),
        ("sd1_lcm", known.SD1 | {"time_cond_proj_dim": 256}, None, {}),
        ("sd2", known.SD2, second, {"clip_h": "cond_stage_model.model."}),
        ("sd2_inpaint", known.SD2 | {"in_channels": 9}, None, {}),
        ("sd2_depth", known.SD2 | {"in_channels": 5}, None, {}),
        ("sd2_unclip", known.UNCLIP, None, {}),
        ("sd2_x4_upscaler", known.X4, None, {}),
        (
            "sdxl",
            known.SDXL,
            both,
            {"clip_l": "conditioner.embedders.0.transformer.", "clip_g": "conditioner.embedders.1.model."},
        ),
        ("sdxl_inpaint", known.SDXL | {"in_channels": 9}, None, {}),
        ("sdxl_instruct", known.SDXL | {"in_channels": 8}, None, {}),
        ("sdxl_lcm", known.SDXL | {"time_cond_proj_dim": 256}, None, {}),
        ("sdxl_refiner", known.REFINER, refining, {"clip_g": "conditioner.embedders.0.model."}),
    ):
        family = "stable_diffusion_xl" if variant.startswith("sdxl") else "stable_diffusion"
        names = unet(**config)
        write(f"{variant}_diffusers", ("denoiser", family, variant, "diffusers"), names, parts={"denoiser": ""})
        if texts is not None:
            parts = {"denoiser": UNET, "vae": FIRST} | encoders
            whole = ldm(names, UNET) | vae | texts
            write(f"{variant}_checkpoint", ("checkpoint", family, variant, "ldm"), whole, parts=parts)
    wanted = ("denoiser", "stable_diffusion_xl", "sdxl", "ldm")
    write("sdxl_ldm_unet", wanted, ldm(unet(**known.SDXL)), parts={"denoiser": ""})
    write(
        "kolors_diffusers", ("denoiser", "kolors", "kolors", "diffusers"), unet(**known.KOLORS), parts={"denoiser": ""}
    )
    playground = ldm(unet(**known.SDXL), UNET) | vae | both | {"edm_mean": (1, 4, 1, 1), "edm_std": (1, 4, 1, 1)}
    write("playground_v2_5_checkpoint", ("checkpoint", "stable_diffusion_xl", "playground_v2_5", "ldm"), playground)


def controls() -> None:
    """ControlNets, T2I-Adapters, IP-Adapters and motion modules."""
    for variant, config in (("sd1", known.SD1), ("sd2", known.SD2), ("sdxl", known.SDXL)):
        family = "stable_diffusion_xl" if variant == "sdxl" else "stable_diffusion"
        names = made("ControlNetModel", **{key: value for key, value in config.items() if key != "up_block_types"})
        write(f"{variant}_controlnet_diffusers", ("controlnet", family, variant, "diffusers"), names)
        wanted = {"controlnet": "control_model."}
        write(
            f"{variant}_controlnet_ldm",
            ("controlnet", family, variant, "ldm"),
            ldm(names, "control_model."),
            parts=wanted,
        )
    names = made("FluxControlNetModel", **known.CONTROL)
    write("flux_controlnet", ("controlnet", "flux", "flux", "diffusers"), names)
    names = made("FluxControlNetModel", **known.CONTROL, num_mode=10)
    write("flux_controlnet_union", ("controlnet", "flux", "flux_union", "diffusers"), names)
    names = made("QwenImageControlNetModel", num_layers=5)
    write("qwen_image_controlnet", ("controlnet", "qwen_image", "qwen_image", "diffusers"), names)
    names = made("SD3ControlNetModel", **known.SD3 | {"num_layers": 12})
    write("sd3_controlnet", ("controlnet", "stable_diffusion_3", "sd3", "diffusers"), names)
    write("sd1_t2i_adapter", ("t2i_adapter", "stable_diffusion", "sd1", "diffusers"), made("T2IAdapter"))
    names = made("T2IAdapter", adapter_type="full_adapter_xl", downscale_factor=16)
    write("sdxl_t2i_adapter", ("t2i_adapter", "stable_diffusion_xl", "sdxl", "diffusers"), names)
    names = made("MotionAdapter", use_motion_mid_block=False)
    write("sd1_motion_module", ("motion_module", "animatediff", "sd1", "diffusers"), names)
    sides = [320] * 2 + [640] * 2 + [1280] * 5 + [640] * 3 + [320] * 3 + [1280]
    write("sd1_ip_adapter", ("ip_adapter", "stable_diffusion", "sd1", "original"), ip_adapter(sides, 768, 1024))
    sides = [640] * 4 + [1280] * 50 + [640] * 6 + [1280] * 10
    write("sdxl_ip_adapter", ("ip_adapter", "stable_diffusion_xl", "sdxl", "original"), ip_adapter(sides, 2048, 1280))


def transformers() -> None:
    """The diffusion transformers, as diffusers names them and as their makers do."""
    flux = {"guidance_embeds": True}
    for variant, config in (
        ("flux_dev", flux),
        ("flux_schnell", {}),
        ("flux_fill", flux | {"in_channels": 384, "out_channels": 64}),
        ("flux_depth", flux | {"in_channels": 128, "out_channels": 64}),
    ):
        names = made("FluxTransformer2DModel", **config)
        write(f"{variant}_diffusers", ("denoiser", "flux", variant, "diffusers"), names)
        write(f"{variant}_bfl", ("denoiser", "flux", variant, "bfl"), bfl(names))
    names = bfl(made("FluxTransformer2DModel", **flux))
    whole = below(UNET, names) | below("vae.", renamed(made("AutoencoderKL", **known.KL_16), VAE))
    whole |= below("text_encoders.clip_l.transformer.", clip(768, 12, 12)) | below(
        "text_encoders.t5xxl.transformer.", t5()
    )
    parts = {"denoiser": UNET, "vae": "vae.", "clip_l": "text_encoders.clip_l.transformer."}
    parts["t5_xxl"] = "text_encoders.t5xxl.transformer."
    write("flux_dev_comfyui", ("checkpoint", "flux", "flux_dev", "bfl"), whole, parts=parts)
    for variant, config in (
        ("flux_2_dev", {}),
        ("flux_2_klein_4b", known.KLEIN | {"num_attention_heads": 24, "joint_attention_dim": 7680}),
        ("flux_2_klein_9b", known.KLEIN | {"num_attention_heads": 32, "joint_attention_dim": 12288, "num_layers": 8}),
    ):
        names = made("Flux2Transformer2DModel", **config)
        write(f"{variant}_diffusers", ("denoiser", "flux_2", variant, "diffusers"), names)
        write(f"{variant}_bfl", ("denoiser", "flux_2", variant, "bfl"), bfl(names))
    write("chroma_diffusers", ("denoiser", "chroma", "chroma", "diffusers"), made("ChromaTransformer2DModel"))
    names = bfl(made("ChromaTransformer2DModel"))
    write("chroma_comfyui", ("denoiser", "chroma", "chroma", "bfl"), below(UNET, names), parts={"denoiser": UNET})
    for variant, config in (
        ("sd3_medium", known.SD3),
        ("sd35_medium", known.SD3 | known.SD35),
        ("sd35_large", known.SD3 | known.LARGE),
    ):
        names = made("SD3Transformer2DModel", **config)
        write(f"{variant}_diffusers", ("denoiser", "stable_diffusion_3", variant, "diffusers"), names)
        original = below(UNET, renamed(names, JOINT)) | below(FIRST, renamed(made("AutoencoderKL", **known.KL_16), VAE))
        parts = {"denoiser": UNET, "vae": FIRST}
        if variant == "sd3_medium":
            original |= below("text_encoders.clip_l.transformer.", clip(768, 12, 12, projection=True))
            original |= below("text_encoders.clip_g.transformer.", clip(1280, 32, 20, projection=True))
            parts |= {"clip_l": "text_encoders.clip_l.transformer.", "clip_g": "text_encoders.clip_g.transformer."}
        write(f"{variant}_original", ("checkpoint", "stable_diffusion_3", variant, "original"), original, parts=parts)
    more_transformers()


def more_transformers() -> None:
    pixart = {"caption_channels": 4096, "use_additional_conditions": True}
    sana = {
        "num_attention_heads": 36,
        "num_layers": 28,
        "num_cross_attention_heads": 16,
        "cross_attention_head_dim": 72,
    }
    for name, family, variant, maker, config, original in (
        ("z_image", "z_image", "z_image", "ZImageTransformer2DModel", {}, Z_IMAGE),
        ("lumina_2", "lumina_2", "lumina_2", "Lumina2Transformer2DModel", {"cap_feat_dim": 2304}, LUMINA),
        ("sana_1_6b", "sana", "sana_1_6b", "SanaTransformer2DModel", {}, SANA),
        ("sana_0_6b", "sana", "sana_0_6b", "SanaTransformer2DModel", sana | {"cross_attention_dim": 1152}, SANA),
        ("pixart_alpha", "pixart", "pixart_alpha", "PixArtTransformer2DModel", pixart, None),
        (
            *("pixart_sigma", "pixart", "pixart_sigma", "PixArtTransformer2DModel"),
            *(pixart | {"use_additional_conditions": False}, SANA),
        ),
        ("wan_t2v_14b", "wan", "wan_t2v_14b", "WanTransformer3DModel", {}, WAN),
        ("wan_t2v_1_3b", "wan", "wan_t2v_1_3b", "WanTransformer3DModel", known.SMALL_WAN, WAN),
        ("wan_2_1_i2v_14b", "wan", "wan_2_1_i2v_14b", "WanTransformer3DModel", known.IMAGES, WAN),
        ("wan_2_2_i2v_14b", "wan", "wan_2_2_i2v_14b", "WanTransformer3DModel", {"in_channels": 36}, WAN),
        ("wan_vace_14b", "wan", "wan_vace_14b", "WanVACETransformer3DModel", {}, None),
        ("qwen_image", "qwen_image", "qwen_image", "QwenImageTransformer2DModel", {}, None),
        ("qwen_image_2", "qwen_image_2", "qwen_image_2", "QwenImage21Transformer2DModel", {}, None),
        ("aura_flow", "aura_flow", "aura_flow", "AuraFlowTransformer2DModel", {}, AURA),
        ("hunyuan_video", "hunyuan_video", "hunyuan_video", "HunyuanVideoTransformer3DModel", {}, None),
        ("hunyuan_image", "hunyuan_video", "hunyuan_image_2_1", "HunyuanImageTransformer2DModel", {}, None),
        ("ltx_video_2b", "ltx_video", "ltx_video_2b", "LTXVideoTransformer3DModel", {}, None),
        ("ltx_2", "ltx_2", "ltx_2", "LTX2VideoTransformer3DModel", {}, None),
        ("mochi", "mochi", "mochi", "MochiTransformer3DModel", {}, None),
        ("cogvideox_2b", "cogvideox", "cogvideox_2b", "CogVideoXTransformer3DModel", {}, None),
        ("cosmos_1", "cosmos", "cosmos", "CosmosTransformer3DModel", {}, None),
        ("cogview", "cogview", "cogview_3_plus_or_4", "CogView4Transformer2DModel", {}, None),
        ("kandinsky_5", "kandinsky_5", "kandinsky_5", "Kandinsky5Transformer3DModel", {}, None),
        ("krea_2", "krea_2", "krea_2", "Krea2Transformer2DModel", {}, None),
    ):
        names = made(maker, **config)
        write(f"{name}_diffusers", ("denoiser", family, variant, "diffusers"), names)
        if original is not None:
            write(f"{name}_original", ("denoiser", family, variant, "original"), renamed(names, original))


def parts() -> None:
    """Autoencoders, text encoders, embeddings and an upscaler."""
    for name, family, variant, maker, config in (
        ("kl_4", "stable_diffusion", "kl_4", "AutoencoderKL", known.KL),
        ("kl_16", "flux", "kl_16", "AutoencoderKL", known.KL_16),
        ("kl_32", "flux_2", "flux_2", "AutoencoderKLFlux2", {}),
        ("wan_2_1", "wan", "wan_2_1", "AutoencoderKLWan", {}),
        ("taesd", "stable_diffusion", "taesd", "AutoencoderTiny", {}),
        ("ltx_video", "ltx_video", "ltx_video", "AutoencoderKLLTXVideo", {}),
        ("hunyuan_video", "hunyuan_video", "hunyuan_video", "AutoencoderKLHunyuanVideo", {}),
        ("dc_ae", "sana", "dc_ae", "AutoencoderDC", known.DC_AE),
        ("cogvideox", "cogvideox", "cogvideox", "AutoencoderKLCogVideoX", {}),
        ("mochi", "mochi", "mochi", "AutoencoderKLMochi", {}),
    ):
        names = made(maker, **config)
        layout = "taesd" if name == "taesd" else "diffusers"
        write(f"{name}_vae", ("vae", family, variant, layout), names)
        if name.startswith("kl_"):
            write(f"{name}_vae_ldm", ("vae", family, variant, "ldm"), renamed(names, VAE))
    for name, tensors, layout in (
        ("clip_l", clip(768, 12, 12), "transformers"),
        ("clip_g", clip(1280, 32, 20, projection=True), "transformers"),
        ("clip_h", clip(1024, 23, 16), "transformers"),
    ):
        write(name, ("text_encoder", "clip", name, layout), tensors, parts={name: ""})
    write("clip_l_bare", ("text_encoder", "clip", "clip_l", "transformers_5"), clip(768, 12, 12, prefix=""))
    write("clip_g_open_clip", ("text_encoder", "clip", "clip_g", "open_clip"), open_clip(1280, 32))
    write("t5_xxl", ("text_encoder", "t5", "t5_xxl", "transformers"), t5())
    write("umt5_xxl", ("text_encoder", "t5", "umt5_xxl", "transformers"), t5(256384, each=True))
    write("sd1_embedding", ("textual_inversion", "stable_diffusion", "sd1", "one_tensor"), {"emb_params": (8, 768)})
    write("sd1_concept", ("textual_inversion", "stable_diffusion", "sd1", "one_tensor"), {"<cat-toy>": (768,)})
    both: Shapes = {"clip_l": (4, 768), "clip_g": (4, 1280)}
    write("sdxl_embedding", ("textual_inversion", "stable_diffusion_xl", "sdxl", "comfyui"), both)
    write("real_esrgan_x4", ("upscaler", "esrgan", "esrgan", "real_esrgan"), esrgan())


def loras() -> None:
    """Adapters by the programs that write them."""
    small, big = clip(768, 12, 12), clip(1280, 32, 20)
    kohya = low_rank(unet(**known.SD1), ATTENTION, "lora_unet_", "kohya") | low_rank(small, TEXT, "lora_te_", "kohya")
    start = {"denoiser": "lora_unet_", "text_encoder": "lora_te_"}
    sd1, sdxl = ("lora", "stable_diffusion", "sd1"), ("lora", "stable_diffusion_xl", "sdxl")
    write("sd1_lora_kohya", (*sd1, "kohya"), kohya, parts=start, width=768, method="lora")
    write("sd1_lora_peft", (*sd1, "peft"), low_rank(unet(**known.SD1), r"attn[12]\.to_", "unet.", "peft"), width=768)
    wanted = ("lora", "stable_diffusion", "sd2", "kohya")
    write("sd2_lora_kohya", wanted, low_rank(unet(**known.SD2), ATTENTION, "lora_unet_", "kohya"), width=1024)
    names = ldm(unet(**known.SDXL))
    texts = low_rank(small, TEXT, "lora_te1_", "kohya") | low_rank(big, TEXT, "lora_te2_", "kohya")
    write("sdxl_lora_kohya", (*sdxl, "kohya"), low_rank(names, ATTENTION, "lora_unet_", "kohya") | texts, width=2048)
    write(
        "sdxl_lora_peft", (*sdxl, "peft"), low_rank(unet(**known.SDXL), r"attn[12]\.to_", "unet.", "peft"), width=2048
    )
    loha = products(unet(**known.SD1), r"attn[12]\.to_", "lora_unet_")
    write("sd1_loha", (*sd1, "kohya"), loha, width=768, method="loha")
    write("sdxl_lokr", (*sdxl, "kohya"), kronecker(names, r"attn[12]\.to_", "lora_unet_"), width=2048, method="lokr")
    write("sdxl_lora_self_attention", (*sdxl, "peft"), low_rank(unet(**known.SDXL), r"attn1\.to_", "unet.", "peft"))
    flux = made("FluxTransformer2DModel", guidance_embeds=True)
    either = ("lora", "flux", "flux_or_chroma")
    all_blocks = r"_blocks\."
    write("flux_lora_peft", (*either, "peft"), low_rank(flux, BLOCKS, "transformer.", "peft"))
    write("flux_lora_kohya", ("lora", "flux", "flux", "kohya"), low_rank(bfl(flux), all_blocks, "lora_unet_", "kohya"))
    some = low_rank(bfl(flux), r"img_attn|linear1", "diffusion_model.", "comfyui")
    write("flux_lora_comfyui", (*either, "comfyui"), some)
    one = low_rank(flux, BLOCKS, "lora_transformer_", "kohya")
    one |= {f"{name[:-6]}.dora_scale": (1, 3072) for name in one if name.endswith(".alpha")}
    write("flux_dora_onetrainer", (*either, "onetrainer"), one, method="dora")
    some = low_rank(bfl(flux), r"double_blocks\.\d+\.img_attn\.(qkv|proj)", "", "peft")
    some = {
        name.replace("img_attn.", "processor.")
        .replace(".lora_A.", "_lora1.down.")
        .replace(".lora_B.", "_lora1.up."): shape
        for name, shape in some.items()
    }
    some |= {name.replace("_lora1.", "_lora2."): shape for name, shape in some.items()}
    write("flux_lora_xlabs", (*either, "xlabs"), some)
    klein = made("Flux2Transformer2DModel", **known.KLEIN | {"num_attention_heads": 24, "joint_attention_dim": 7680})
    wanted = ("lora", "flux_2", "flux_2_klein_4b", "comfyui")
    write("flux_2_klein_4b_lora", wanted, low_rank(bfl(klein), all_blocks, "diffusion_model.", "comfyui"))
    for name, family, variant, maker, config, only in (
        ("qwen_image", "qwen_image", "qwen_image", "QwenImageTransformer2DModel", {}, r"attn\.to_"),
        ("sd3_medium", "stable_diffusion_3", "sd3_medium", "SD3Transformer2DModel", known.SD3, r"attn\.to_"),
        (
            "sd35_large",
            "stable_diffusion_3",
            "sd35_large",
            "SD3Transformer2DModel",
            known.SD3 | known.LARGE,
            r"attn\.to_",
        ),
        ("z_image", "z_image", "z_image", "ZImageTransformer2DModel", {}, r"attention\.to_"),
        ("hunyuan_video", "hunyuan_video", "hunyuan_video", "HunyuanVideoTransformer3DModel", {}, r"attn\.to_"),
        ("ltx_video", "ltx_video", "ltx_video_2b", "LTXVideoTransformer3DModel", {}, r"attn\d\.to_"),
        ("wan_14b", "wan", "wan_14b", "WanTransformer3DModel", {}, r"attn\d\.to_"),
        ("sana", "sana", "sana_1_6b", "SanaTransformer2DModel", {}, r"attn\d\.to_"),
    ):
        names = made(maker, **config)
        write(f"{name}_lora_peft", ("lora", family, variant, "peft"), low_rank(names, only, "transformer.", "peft"))
    names = renamed(made("WanTransformer3DModel", **known.SMALL_WAN), WAN)
    wanted = ("lora", "wan", "wan_1_3b", "comfyui")
    write("wan_1_3b_lora_comfyui", wanted, low_rank(names, r"attn\.|ffn", "diffusion_model.", "comfyui"))


if __name__ == "__main__":
    for old in HERE.glob("*.json"):
        old.unlink()
    for make in (unets, controls, transformers, parts, loras):
        make()
    files = list(HERE.glob("*.json"))
    print(f"{len(files)} fixtures, {sum(file.stat().st_size for file in files) / 2**20:.2f} MiB")
