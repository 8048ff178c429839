"""Two-tower models behind one interface: loading, towers' parts, positions, prompts inside the towers."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "checkpoints": "read_checkpoint",
        "finders": "KeptLoss searched",
        "heads": "HeadBackbone",
        "hf_source": "quiet",
        "hub": "ModelFolder",
        "joint_parts": "JointParts",
        "load": "announced load_backbone save_fine_tuned",
        "positions": "insert_after_start",
        "preprocessing": "EachPart SeededAugment",
        "prompted": "CoupledTokens PromptTokens TowerPrompts",
        "token_merging": "TokenMerge",
        "tower_steps": "attend module_of_file",
    },
)
