"""Suggest corrections for a wrong command line: a similar name, the name in another tool, or the right syntax."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from text.commands.flag_kinds import format_list_example, is_list, is_text
from text.commands.registry import COMMANDS

GENERAL = ("config", "debug", "print_config", "help")
"""Flags of every command."""
_OTHER_NAMES = {
    "max_epochs": "epochs num_epochs num_train_epochs n_epochs",
    "learning_rate": "lr",
    "batch_size": "bs per_device_train_batch_size per_gpu_train_batch_size train_batch_size",
    "accumulate_batches": "gradient_accumulation_steps accumulate_grad_batches grad_accum",
    "gradient_clip_val": "max_grad_norm clip grad_clip",
    "warmup_steps": "warmup num_warmup_steps warmup_ratio",
    "schedule": "lr_scheduler lr_scheduler_type scheduler",
    "precision": "fp16 bf16 amp",
    "encoder": "model_name_or_path model_name pretrained_model_cfg pretrained model base_model",
    "model": "model_name_or_path model_name model_dir model_path model_file checkpoint encoder",
    "tokenizer": "tokenizer_name tokenizer_name_or_path",
    "output_dir": "output out out_dir save_dir save_path default_root_dir out_file",
    "output": "output_dir out out_path out_file output_file output_path",
    "out_path": "output output_dir out out_file output_path",
    "run": "output out out_file output_file output_path run_file",
    "train_files": "train_file train train_data train_data_path train_path train_dataset",
    "valid_file": "dev_file dev_files valid valid_files validation_file eval_file val_file dev",
    "test_file": "test test_files test_path",
    "data_path": "data data_dir dataset dataset_dir dataset_path",
    "num_hard_negatives": "hard_negatives train_n_passages num_negatives n_hard_neg",
    "num_other_negatives": "other_negatives",
    "passage_max_length": "p_max_len passage_max_len max_seq_length max_length sequence_length",
    "question_max_length": "q_max_len query_max_len query_max_length question_max_len",
    "question_prompt": "query_prompt query_prefix",
    "passage_prompt": "doc_prompt passage_prefix",
    "matryoshka_dims": "matryoshka mrl_dims",
    "temperature": "temp tau scale",
    "similarity": "similarity_fn_name score_function",
    "tied": "shared_encoder share_encoder shared_model",
    "pooling": "pooling_mode pooler",
    "resume": "resume_from_checkpoint ckpt_path",
    "gpus": "devices num_gpus n_gpu n_gpus nproc_per_node",
    "num_nodes": "nnodes num_machines",
    "num_workers": "workers dataloader_num_workers",
    "log_every_n_steps": "logging_steps log_batch_step",
    "validate_every_n_steps": "eval_steps val_check_interval",
    "early_stopping": "patience early_stopping_patience",
    "activation_checkpointing": "gradient_checkpointing",
    "chunk_tokens": "grad_cache gc_p_chunk_size",
    "k": "top_k topk n_docs hits num_hits k_values",
    "questions": "queries query query_file qa_dataset qa_file",
    "collection": "corpus passages ctx_file passages_file ctx_src documents docs",
    "positives": "rows dpr_file",
    "rows": "train_file train_files input data",
    "raw_path": "input input_path path raw_file",
    "num_items": "n num num_rows limit",
    "device": "gpu cuda",
    "overwrite": "force overwrite_output_dir",
}
"""Names of a flag in other tools."""
_FOLDERS = ("data_path", "model", "embeddings", "encoder", "output_dir")
_FILES = ("train_files", "rows", "raw_path", "data_path", "run", "collection", "questions")
"""Flags to suggest for a path without a flag, most likely flag first."""


def hint_command(name: str, rest: Sequence[str]) -> str:
    """Return a suggestion for a name that is not a command."""
    if name.startswith("-"):
        first = next((each for each in rest if each in COMMANDS), "COMMAND")
        return f" Write the command first: dpr-text {first} {name}"
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return f" Did you mean {near[0]}?" if near else f" Use one of {', '.join(COMMANDS)}."


def hint_flag(name: str, kinds: Mapping[str, Any], dashes: str = "--") -> str:
    """Suggest a flag with the same meaning or the most similar name. Return an empty text if there is none.

    Args:
        name: Name that is not a flag of the command.
        kinds: Type of every flag.
        dashes: Prefix of the suggested flag. It is empty for flags in a file.
    """
    plain = name.replace("-", "_")
    same = [plain] if plain in kinds else []
    same += [flag for flag, others in _OTHER_NAMES.items() if flag in kinds and plain in others.split()]
    near = difflib.get_close_matches(plain, [*kinds, *(GENERAL if dashes else ())], n=1)
    found = [*same, *near]
    return f" Did you mean {dashes}{found[0]}?" if found else ""


def hint_section(name: str, sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Suggest how to set a flag in the sections of a recipe. Return an empty text if no section has the flag.

    Args:
        name: Name that is not a flag of the command.
        sections: Types of the flags of each section.
    """
    found = [f"--{section}.{name}" for section, kinds in sections.items() if name in kinds]
    if not found:
        return ""
    return f" Set it in a section: {', '.join(found)}."


def hint_dotted(section: str, key: str, kinds: Mapping[str, Any], sections: Sequence[str]) -> str:
    """Suggest a correction for ``--section.key`` if the command does not have this section.

    Args:
        section: Text before the first dot.
        key: Text after the first dot.
        kinds: Type of every flag.
        sections: Names of the command's sections.
    """
    if near := difflib.get_close_matches(section, sections, n=1):
        return f" Did you mean --{near[0]}.{key}?"
    if sections:
        return f" Write a dot only after {', '.join(f'--{each}' for each in sections)}."
    return hint_flag(key, kinds) or hint_flag(section, kinds) or " No flag of this command has a dot."


def hint_arguments(arguments: Sequence[str], given: Iterable[str], kinds: Mapping[str, Any]) -> str:
    """Suggest how to write positional arguments that the command does not take.

    Args:
        arguments: The unexpected arguments.
        given: Names of the flags on the command line.
        kinds: Type of every flag.
    """
    first = arguments[0]
    name = first.partition("=")[0]
    if "=" in first and (name in kinds or hint_flag(name, kinds)):
        return f" Write --{first}." if name in kinds else hint_flag(name, kinds)
    if lists := [each for each in given if is_list(kinds.get(each))]:
        return f" Write a list as {format_list_example(f'--{lists[-1]}', kinds[lists[-1]])}."
    paths = _FILES if os.path.splitext(first.rstrip("/"))[1] else _FOLDERS
    flags = [each for each in paths if each in kinds and (is_text(kinds[each]) or is_list(kinds[each]))]
    if not flags:
        return " Every value needs its flag."
    is_in_folder = paths == _FILES and flags[0] == "data_path"
    value = (os.path.dirname(first) or ".") if is_in_folder else first
    return f" Every value needs its flag, such as --{flags[0]}={value}"
