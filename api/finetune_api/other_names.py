"""What other tools call the settings of a FineTuneJob: the arguments of transformers, TRL, PEFT, axolotl, LLaMA-Factory,
Kubeflow and Kubernetes' own Jobs. Pure data, from their documentation; a test checks that every field named here exists.
"""

import re

_FIELDS = {
    "model.uri": "model_name_or_path pretrained_model_name_or_path model_name model_id base_model storage_uri"
    " model.name model.path model.id model.repo model.repository model.model",
    "model.credentials.secretName": "hf_token hf_hub_token use_auth_token hub_token hub_model_token",
    "model.weights": "model.frozenWeights",
    "model.adapter": "peft peft_config peft_type use_peft use_lora finetuning_type",
    "model.adapter.lora": "lora lora_config qlora",
    "model.adapter.lora.rank": "lora_r lora_rank lora_dim r",
    "model.adapter.lora.alpha": "lora_alpha",
    "model.adapter.lora.dropout": "lora_dropout",
    "model.adapter.lora.targetModules": "lora_target_modules lora_target lora_target_linear target_modules",
    "model.adapter.lora.merge": "merge_lora merge_and_unload merge_adapter export_merged",
    "model.freeze": "freeze_layers unfrozen_parameters freeze_trainable_layers freeze_base_model",
    "model.dropout": "hidden_dropout_prob attention_dropout classifier_dropout",
    "model.layerLearningRateDecay": "layerwise_lr_decay layer_decay llrd",
    "model.tokenizer": "tokenizer_name tokenizer_name_or_path tokenizer_config",
    "dataset.train": "train_file train_data train_dataset training_data dataset_path dataset_name datasets dataset.uri"
    " dataset.path dataset.name dataset.file",
    "dataset.train.format": "train.type ds_type file_type",
    "dataset.validation": "eval_file validation_file eval_dataset eval_data val_dataset dataset.eval dataset.val"
    " dataset.dev test_datasets",
    "dataset.validation.fraction": "val_set_size val_size validation_split eval_split validation_split_percentage"
    " eval_size test_size validation.split validation.ratio validation.share validation.size",
    "dataset.test": "test_file test_dataset test_data predict_file",
    "dataset.columns.text": "text_column text_column_name dataset_text_field text_field input_column sentence1_key"
    " field_input",
    "dataset.columns.textPair": "text_pair_column sentence2_key",
    "dataset.columns.label": "label_column label_column_name labels_column target_column label_field label_names",
    "dataset.columns.messages": "messages_field field_messages messages_column conversations_column",
    "dataset.columns.prompt": "prompt_column prompt_field query_column field_instruction",
    "dataset.columns.completion": "completion_column response_column output_column answer_column field_output",
    "dataset.columns.chosen": "chosen_column",
    "dataset.columns.rejected": "rejected_column",
    "dataset.rows": "chat_format dataset_format row_format dataset_type formatting",
    "dataset.preprocessing.maxLength": "max_length max_seq_length max_seq_len sequence_len sequence_length cutoff_len"
    " model_max_length max_source_length block_size context_length",
    "dataset.preprocessing.truncation": "truncation_side truncation_mode",
    "dataset.preprocessing.packing": "packing sample_packing neat_packing pack_sequences",
    "objective": "task task_type problem_type stage training_type",
    "objective.causalLM": "sft clm causal_lm language_modeling instruction_tuning supervised",
    "objective.preference": "dpo ipo kto orpo simpo rlhf rl",
    "objective.preference.loss": "pref_loss loss_type dpo_loss",
    "objective.preference.beta": "dpo_beta pref_beta rl_beta",
    "objective.preference.sftWeight": "rpo_alpha pref_ftx",
    "objective.preference.margin": "simpo_gamma",
    "objective.tokenClassification": "ner token_cls token_classification",
    "objective.classification": "sequence_classification text_classification seq_cls",
    "objective.classification.labels": "label_list class_names id2label label2id",
    "objective.classification.classWeights": "class_weight",
    "objective.classification.labelSmoothing": "label_smoothing_factor label_smoothing",
    "objective.causalLM.chatTemplate": "chat_template chat_template_path template",
    "training.epochs": "num_train_epochs num_epochs n_epochs max_epochs epoch",
    "training.maxSteps": "max_steps max_train_steps num_steps train_steps total_steps",
    "training.batchSize": "train_batch_size global_batch_size total_batch_size effective_batch_size",
    "training.microBatchSize": "per_device_train_batch_size per_gpu_train_batch_size micro_batch_size"
    " micro_train_batch_size train_micro_batch_size_per_gpu",
    "training.optimizer.name": "optim optimizer_type optimizer.type",
    "training.optimizer.learningRate": "learning_rate lr peak_lr max_lr base_lr",
    "training.optimizer.weightDecay": "weight_decay wd",
    "training.optimizer.betas": "adam_beta1 adam_beta2 beta1 beta2 adam_betas",
    "training.optimizer.epsilon": "adam_epsilon adam_eps eps",
    "training.schedule.name": "lr_scheduler_type lr_scheduler scheduler scheduler_type schedule_type schedule.type",
    "training.schedule.warmup.ratio": "warmup_ratio warmup_fraction warmup_proportion",
    "training.schedule.warmup.steps": "warmup_steps num_warmup_steps lr_warmup_steps",
    "training.schedule.minRatio": "cosine_min_lr_ratio min_lr_ratio min_lr_rate",
    "training.gradientClipping.maxNorm": "max_grad_norm gradient_clip_val clip_grad_norm grad_clip gradient_clip"
    " gradient_clipping_norm",
    "training.seed": "seed random_seed data_seed random_state",
    "training.precision": "mixed_precision amp autocast compute_dtype",
    "training.activationCheckpointing": "gradient_checkpointing use_gradient_checkpointing"
    " gradient_checkpointing_kwargs",
    "training.evaluation.every": "eval_steps evaluation_strategy eval_strategy evals_per_epoch val_check_interval"
    " eval_every",
    "training.evaluation.baseline": "eval_on_start eval_at_start",
    "training.evaluation.metrics": "compute_metrics eval_metrics metric_names",
    "training.evaluation.bestMetric": "metric_for_best_model best_metric",
    "training.earlyStopping.patience": "early_stopping_patience",
    "training.earlyStopping.minDelta": "early_stopping_threshold",
    "training.earlyStopping.restoreBest": "load_best_model_at_end",
    "training.checkpoint.every": "save_steps save_strategy saves_per_epoch checkpoint_interval save_every"
    " checkpointing_steps",
    "training.checkpoint.keep": "save_total_limit keep_checkpoints max_checkpoints",
    "training.checkpoint.resume": "resume_from_checkpoint auto_resume_from_checkpoints overwrite_output_dir",
    "training.tensorParallel": "tensor_parallel_size tp tp_size tensor_model_parallel_size",
    "training.debug.tensorBoard": "use_tensorboard logging_dir tensorboard",
    "training.deterministic": "full_determinism",
    "output.uri": "output_dir output_path save_dir output.path output.dir output.folder output_data_config",
    "output.dtype": "save_dtype export_dtype",
    "resources.nodes": "num_nodes nnodes world_size num_machines replicas num_workers worker_replicas worker"
    " workers master completions min_available min_member instance_count"
    " scaling_config",
    "resources.gpusPerNode": "gpus num_gpus n_gpus gpu gpu_count num_proc_per_node nproc_per_node num_processes use_gpu",
    "resources.requests": "resources_per_node resources_per_worker resources.cpu resources.memory"
    " cpus num_cpus",
    "resources.sharedMemory": "shm shm_size",
    "scheduling.nodeSelector": "node_selector affinity node_affinity node_name instance_type"
    " gpu_type accelerator accelerators accelerator_type",
    "scheduling.priorityClassName": "priority priority_class",
    "scheduling.queue": "queue queue_name local_queue local_queue_name managed_by",
    "scheduling.topologyKey": "topology topology_spread_constraints placement_strategy",
    "scheduling.imagePullSecrets": "image_pull_secret",
    "suspend": "paused pause",
    "retry": "backoff retry_policy retry_strategy failure_config restart_policy",
    "retry.limit": "backoff_limit max_retries retries max_restarts num_retries max_failures retry.attempts",
    "activeDeadlineSeconds": "timeout active_deadline deadline max_runtime max_run_duration time_limit"
    " stopping_condition",
    "ttlSecondsAfterFinished": "ttl ttl_seconds clean_pod_policy",
    "search.parameters": "hp_space hyperparameters param_space search_space param_grid",
    "search.maxTrials": "n_trials num_trials max_trial_count",
    "search.parallelism": "parallel_trial_count max_concurrent_trials",
    "ensemble.members": "ensemble.seeds ensemble.size ensemble.models n_members num_members",
    "env": "env_vars environment envs env_from",
    "command": "args script entrypoint train_script",
    "gate.min": "gate.minimum",
    "gate.max": "gate.maximum",
}
"""By each field, the names for which it is the answer; one with a dot is for that parent only."""

_ADVICE = {
    "write {model.weights: NF4}, with {model.adapter}": "quantization quantize quantization_bit quantization_config"
    " quantization_method load_in_4bit use_4bit bits bnb_4bit_quant_type bnb_4bit_compute_dtype bnb_config"
    " bnb_4bit_use_double_quant double_quantization bitsandbytes",
    "8 bits are not supported; write {model.weights: NF4} for 4 bits or {model.weights: BFloat16} for 16, with"
    " {model.adapter}": "load_in_8bit use_8bit int8",
    "write {model.weights} for frozen weights, {training.precision} for the forward and backward pass, or {output.dtype}"
    " for the published model": "torch_dtype dtype model_dtype weights_dtype",
    "write {training.precision: BFloat16}": "bf16 bfloat16 use_bf16 bf16_full_eval pure_bf16",
    "float16 is not supported; write {training.precision: BFloat16}, or leave it out": "fp16 float16 half use_fp16"
    " fp16_opt_level fp16_full_eval loss_scale",
    "write {training.precision: Float32}": "fp32 float32 no_cuda_amp",
    "tf32 is not a setting; remove it": "tf32 allow_tf32",
    "attention is chosen by the hardware; remove it": "attn_implementation flash_attention flash_attn use_flash_attention"
    " use_flash_attention_2 flash_attention_2 sdp_attention xformers xformers_attention eager_attention",
    "code of a model's repository is never run; remove it": "trust_remote_code trust_remote_code_model",
    "write {training.batchSize}, the examples of a whole optimizer step, and {training.microBatchSize}, those of a forward"
    " pass: accumulation makes up the rest": "gradient_accumulation_steps gradient_accumulation grad_accum_steps"
    " accumulate_grad_batches grad_accumulation accumulation_steps",
    "evaluation uses {training.microBatchSize}; remove it": "per_device_eval_batch_size eval_batch_size"
    " val_batch_size per_gpu_eval_batch_size",
    "write {training.sharding: Full}, which shards weights, gradients and optimizer state": "deepspeed deepspeed_config"
    " fsdp fsdp_config fsdp_version zero zero_stage zero_optimization zero3 sharding_strategy fsdp_transformer_layer_cls_to_wrap",
    "layers and sequences are not split; write {training.tensorParallel} or {training.sharding: Full} for a model that does"
    " not fit on a GPU": "pipeline_parallel pipeline_parallel_size pp pp_size pipeline_model_parallel_size"
    " sequence_parallel_size context_parallel_size device_map parallelism model_parallel",
    "steps are logged without it; remove it": "logging_steps log_steps log_every log_interval logging_strategy"
    " logging_first_step",
    "metrics are in the status and in Prometheus; write {training.debug.tensorBoard: true} for TensorBoard": "report_to"
    " wandb wandb_project wandb_run_id wandb_entity mlflow run_name swanlab comet use_wandb",
    "the model is written to {output.uri} and not uploaded; remove it": "push_to_hub hub_model_id hub_strategy"
    " push_to_hub_model_id hub_private_repo",
    "batches have rows of similar length without it; remove it": "group_by_length length_column_name",
    "data is read without a setting of workers; remove it": "dataloader_num_workers dataloader_pin_memory"
    " dataset_num_proc preprocessing_num_workers dataloader_prefetch_factor dataloader_drop_last",
    "noise on embeddings is not supported; remove it": "neftune_noise_alpha noisy_embedding_alpha",
    "this variant of LoRA is not supported; remove it": "use_dora use_rslora use_qalora loraplus_lr_ratio loftq_config"
    " init_lora_weights rank_pattern alpha_pattern layers_to_transform lora.bias exclude_modules pissa_init",
    "only the adapter is trained beside a new head; remove it": "modules_to_save additional_target trainable_token_indices",
    "compilation and fused kernels are not settings; remove it": "torch_compile torch_compile_backend torch_compile_mode"
    " use_liger_kernel liger_kernel_config enable_liger_kernel use_unsloth unsloth use_kernels",
    "a revision is part of the URI: write hf://ORG/NAME@REVISION in {model.uri}": "revision model_revision base_model_revision",
    "the metric says whether higher is better; remove it": "greater_is_better",
    "the operator sets what connects the processes; remove it": "local_rank ddp_backend ddp_timeout"
    " ddp_find_unused_parameters ddp_bucket_cap_mb master_addr master_port node_rank rdzv_endpoint rdzv_backend",
    "columns are chosen by {dataset.columns}; remove it": "remove_unused_columns",
    "the tokenizer's special tokens are used; remove it": "eos_token pad_token special_tokens",
    "the number of classes comes from the labels: write {objective.classification.labels}, or leave it out": "num_labels"
    " num_classes n_classes",
    "write {objective.causalLM.maskPrompt}, or for conversations {objective.causalLM.train}": "train_on_inputs"
    " train_on_prompt mask_inputs completion_only_loss assistant_only_loss train_on_prompts mask_history roles_to_train"
    " response_template train_on_responses_only",
    "how long a retry waits is not a setting; write {retry.limit}": "retry.backoff backoff_seconds initial_backoff"
    " max_backoff retry_delay retry_interval",
    "pods are planned by the operator; see {resources}, {scheduling}, {image} and {env}": "pod_template pod_spec"
    " containers volumes volume_mounts volume_claim_templates init_containers security_context pod_template_overrides"
    " pytorch_replica_specs run_policy replica_specs tasks trainer runtime_ref ray_cluster_spec runtime_env_yaml"
    " host_ipc host_network host_pid dns_policy plugins policies pod_group gang",
    "the administrator sets it for all pods; remove it": "service_account service_account_name runtime_class runtime_class_name image_pull_policy pod_annotations pod_labels"
    " role_arn",
    "write {model.uri} and {dataset.train}: the operator downloads what is on the Hub": "initializer input_data_config",
    "trials are compared by {training.evaluation.bestMetric}; remove it": "search.metric search.objective search.direction"
    " search.goal search.objective_metric_name search.optimize",
    "write {gate.min} where higher is better, {gate.max} where lower is": "gate.threshold gate.value",
    "write {training.schedule}": "lr_scheduler_kwargs num_cycles",
    "the whole file is read; write a smaller one, or {training.maxSteps}": "max_train_samples max_samples"
    " max_eval_samples max_samples_per_ds train_subset",
    "an objective is a field: write {objective.classification}, {objective.causalLM} or another": "objective.type"
    " objective.name objective.kind",
}
"""By each remedy, the names for which it is the answer. {PATH} and {PATH: VALUE} are fields."""

NAMED = re.compile(r"\{([a-zA-Z0-9.]+)((?:: [^}]*)?)\}")
"""A field in a remedy, and its value."""


def folded(name: str) -> str:
    """A name without case, '_' and '-', which tools write differently."""
    return re.sub(r"[_\-]", "", name).casefold()


REMEDIES: dict[str, str] = {
    folded(name): remedy
    for remedy, names in [
        *((f"did you mean {{{field}}}?", names) for field, names in _FIELDS.items()),
        *_ADVICE.items(),
    ]
    for name in names.split()
}
"""By folded name, or parent and name with a dot between them."""


def remedy_for(path: str) -> str | None:
    """The remedy for a field that another tool has, by its last name; None for a name that none is known to have."""
    names = [folded(name) for name in path.split(".")]
    return REMEDIES.get(".".join(names[-2:])) or REMEDIES.get(names[-1])
