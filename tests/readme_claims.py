"""Which tests hold each sentence of README's sections on data and training: a sentence by a phrase of it."""

from __future__ import annotations

SECTIONS = ("## Your own images", "## Training", "## What the steps leave")

# What only leads to the next sentence or heads a table.
WITHOUT_A_CLAIM = ("`--data` is one of", "| layout |", "Two trials keep nothing:", "| directory |")

# Files are below tests/.
CLAIMS: dict[str, list[str]] = {
    # Your own images
    "without `--params` is refused": [
        "pipelines/test_bad_inputs.py::test_data_without_params_is_refused",
    ],
    "| a folder per class |": [
        "data_prep/test_class_folders.py::test_a_folder_per_class_with_its_own_test_split",
        "data_prep/test_class_folders.py::test_class_folders_at_the_top_have_test_images_held_out",
        "data_prep/test_split_folders.py::test_three_splits_are_taken_as_they_are",
    ],
    "| a table |": [
        "data_prep/test_info_csv.py::test_a_table_in_train_and_one_in_test",
        "data_prep/test_split_folders.py::test_tables_in_folders_of_splits_by_another_name",
    ],
    "| IDX files |": [
        "data_prep/test_idx.py::test_images_and_labels_keep_every_value_and_their_order",
        "data_prep/test_idx.py::test_plain_and_compressed_files_give_the_same_bytes",
        "data_prep/test_split_folders.py::test_idx_files_by_another_name",
    ],
    "Any common image format": [
        "data_prep/test_images.py::test_every_format_and_mode_keeps_its_values",
        "data_prep/test_images.py::test_another_size_is_resized_with_antialiasing",
        "data_prep/test_tiff.py::test_every_tiff_is_read_right_or_set_aside",
    ],
    "any case and common spelling": [
        "data_prep/test_split_folders.py::test_splits_by_another_name",
        "data_prep/test_split_folders.py::test_what_may_mean_two_things_is_refused_with_what_to_do",
    ],
    "a stratified one is held out": [
        "data_prep/test_splits.py::test_every_class_is_held_out_by_its_share",
        "data_prep/test_splits.py::test_all_64_bits_of_the_seed_matter",
    ],
    "set aside and listed": [
        "data_prep/test_unreadable.py::test_unreadable_images_are_set_aside_and_listed",
        "data_prep/test_unreadable.py::test_the_share_of_unreadable_images_is_bounded",
    ],
    "Pictures whose kind is not read": [
        "data_prep/test_left_out.py::test_pictures_without_a_decoder_count_as_unreadable",
        "data_prep/test_formats.py::test_without_the_extra_heic_is_no_image_and_the_reason_says_what_to_do",
    ],
    "folders of systems": [
        "data_prep/test_left_out.py::test_folders_of_systems_are_left_out_and_counted",
        "data_prep/test_left_out.py::test_the_last_status_event_says_what_was_left_out",
        "data_prep/test_counts.py::test_the_log_the_manifest_and_the_result_count_by_split_and_class",
    ],
    "What links lead to outside": [
        "data_prep/test_names_and_links.py::test_what_leaves_the_data_needs_follow_links",
        "data_prep/test_names_and_links.py::test_an_output_in_or_around_the_data_is_refused_before_anything_is_written",
    ],
    "Check params before anything starts": [
        "pipelines/test_run.py::test_bad_params_are_refused_before_anything_starts",
    ],
    "torch's meta device": [
        "classifier/test_network.py::test_examining_takes_no_memory_and_no_randomness",
        "test_readme_claims.py::test_the_layer_table_is_what_validate_prints",
    ],
    "refused with the first layer that does not": [
        "classifier/test_network.py::test_the_first_misfit_alone_is_named",
        "test_readme_claims.py::test_the_message_of_a_network_that_does_not_fit_is_the_real_one",
    ],
    # Training
    "Training saves where it is": [
        "train/test_keys.py::test_save_freq_and_keep_checkpoints",
        "test_readme_claims.py::test_checkpoint_minutes_saves_between_epochs",
        "train/test_terminated.py::test_sigterm_in_mid_epoch",
        "train/test_terminated.py::test_ctrl_c_once_leaves_a_checkpoint",
    ],
    "a pod that goes is killed at once": [
        "pipelines/test_kubeflow_facts.py",
    ],
    "newest checkpoint that is whole": [
        "train/test_resume.py::test_every_step_may_be_an_attempt_of_its_own",
        "kill/test_one_process.py::test_a_killed_training",
    ],
    "a volume or a bucket's place": [
        "kill/test_bucket.py::test_a_killed_training_goes_on_from_a_bucket",
        "train/checkpoints/test_remote.py::test_what_is_fetched_is_the_newest_alone",
    ],
    "A checkpoint holds weights": [
        "train/checkpoints/test_format.py::test_a_checkpoint_comes_back_as_it_was",
        "train/test_resume.py::test_every_schedule_is_among_them",
        "train/test_resume.py::test_the_generators_that_all_share_go_on",
    ],
    "copied in the training's own thread": [
        "train/checkpoints/test_keeper.py::test_what_is_saved_is_the_state_of_the_call_whatever_training_does_next",
        "train/checkpoints/test_format.py::test_a_failed_write_leaves_what_was_there_and_nothing_else",
        "train/checkpoints/test_damage.py::test_the_one_before_is_gone_on_from",
    ],
    "of other params or data are refused": [
        "train/checkpoints/test_identity.py::test_other_params_are_refused_with_what_differs",
        "train/checkpoints/test_identity.py::test_other_data_is_refused",
    ],
    "`--start-over` removes them": [
        "train/checkpoints/test_identity.py::test_the_command_line_refuses_and_starts_over_when_told",
    ],
    "Options that change nothing": [
        "train/checkpoints/test_identity.py::test_what_does_not_change_the_weights_does_not_hinder",
        "train/checkpoints/test_identity.py::test_what_is_free_changes_no_weight",
    ],
    "`num_epochs` may, too": [
        "train/test_more_epochs.py::test_more_epochs_go_on_to_the_weights_of_a_run_that_had_them_from_the_start",
    ],
    "a schedule lasts as long as the run (the": [
        "train/test_more_epochs.py::test_schedules_as_long_as_the_run_are_named",
        "train/test_more_epochs.py::test_fewer_epochs_than_are_trained_are_refused_with_what_to_do",
        "train/test_more_epochs.py::test_an_evaluation_that_the_longer_run_would_not_have_made_is_told",
    ],
    "they lie beside the model, `gs": [
        "test_readme_claims.py::test_checkpoints_lie_beside_a_model_in_a_bucket",
        "train/checkpoints/test_identity.py::test_checkpoints_of_a_finished_run_go_with_its_model_when_another_run_replaces_it",
        "train/checkpoints/test_identity.py::test_checkpoints_of_an_unfinished_run_are_kept_in_the_default_place",
    ],
    "a directory has one writer at a time": [
        "shared/test_locks.py::test_every_kind_of_artifact_has_one_writer",
    ],
    "A second one is refused": [
        "shared/test_locks.py::test_the_second_is_told_who_the_first_is_until_that_is_killed",
        "train/checkpoints/test_place.py::test_a_second_training_waits_and_then_says_who_is_there",
    ],
    "The lock is the file system's": [
        "shared/test_locks.py::test_a_release_is_noticed_however_the_holder_ends",
        "shared/test_locks.py::test_where_a_file_system_has_no_locks_there_is_a_warning",
    ],
    "Another device, torch or number of processes": [
        "train/test_resume.py::test_what_cannot_be_bit_exact_is_warned_of_and_goes_on",
    ],
    "at most half of its free memory": [
        "classifier/test_placement.py::test_auto_takes_half_of_what_is_free",
        "classifier/test_placement.py::test_a_split_that_does_not_fit_stays_mapped",
        "shared/test_limits.py::test_the_narrowest_group_counts",
        "classifier/test_mapped_images.py::test_resident_and_mapped_images_are_the_same",
    ],
    "keep torchvision's per-image meaning": [
        "classifier/test_batched_transforms.py::test_nothing_of_one_image_reaches_another",
        "classifier/test_augmentation.py::test_a_mixture_of_both_is_distributed_as_image_by_image",
        "classifier/test_augmentation.py::test_the_log_says_what_runs_how",
        "classifier/test_augmentation.py::test_the_log_says_what_it_costs",
    ],
    "Held-out images never go through them": [
        "train/test_keys.py::test_additional_transforms",
        "classifier/test_rehearsal.py::test_what_makes_training_images_others_is_refused",
        "classifier/test_rehearsal.py::test_normalize_is_refused_for_the_keys_that_go_for_every_split",
        "classifier/test_rehearsal.py::test_accepted_is_what_leaves_real_pictures_comparable",
    ],
    "What takes longer than 10 s is tried in part": [
        "classifier/test_rehearsal.py::test_after_its_time_a_trial_ends_with_a_line_on_how_far_it_came",
    ],
    "Layout is channels_last": [
        "test_readme_claims.py::test_layout_is_channels_last",
        "train/test_precision.py::test_a_fused_optimiser_makes_the_same_steps",
        "test_readme_claims.py::test_precision_is_bf16_on_a_gpu_that_has_it",
        "train/test_precision.py::test_bf16_trains_and_evaluates_near_fp32",
        "test_readme_claims.py::test_evaluation_computes_in_float32_what_was_trained_in_bf16",
        "test_readme_claims.py::test_compile_is_for_long_runs_on_a_gpu",
    ],
    "the host looks at them every 100 steps": [
        "train/test_train.py::test_the_host_asks_the_device_nothing_between_steps",
        "train/test_status.py::test_a_long_epoch_says_something_after_a_silence",
    ],
    "how near it came to what is possible": [
        "train/test_speed.py::test_a_short_run_measures_nothing",
        "train/test_speed.py::test_measuring_takes_at_most_three_hundredths_of_the_run",
        "train/test_speed_text.py::test_the_log_has_two_lines",
        "train/test_speed_text.py::test_tensorboard_shows_it_as_text_and_as_scalars",
        "shared/artifacts/test_model.py::test_speed_and_throughput_are_read_back",
    ],
    "What the rounds do not agree on": [
        "train/test_speed.py::test_rounds_that_do_not_agree_are_no_figure",
    ],
    "losses as {class, kwargs}": [
        "train/test_practice.py::test_a_loss_is_torchs_own",
        "train/test_practice.py::test_balanced_weights_find_a_rare_class",
        "train/test_mixup.py::test_the_loss_of_a_mixed_batch_is_that_of_both_labels_by_their_share",
        "train/test_practice.py::test_the_average_is_kept_by_hand_evaluated_and_saved",
        "train/test_practice.py::test_clipping_bounds_the_step",
        "train/test_practice.py::test_accumulated_batches_make_the_step_of_one_large_batch",
        "train/test_practice.py::test_early_stopping_ends_where_patience_does_and_keeps_the_best",
        "train/test_rates.py::test_a_warm_up_rises_step_by_step_to_the_learning_rate",
        "classifier/test_optimisers.py::test_schedules_without_a_length_are_as_long_as_the_run",
    ],
    "Together schedules multiply": [
        "classifier/test_schedules.py::test_together_they_are_refused_or_multiply",
        "classifier/test_schedules.py::test_a_refused_warm_up_names_what_works",
    ],
    "With `milestones: [5, 20]`": [
        "classifier/test_schedules.py::test_with_milestones_each_has_its_own_epochs",
        "classifier/test_schedules.py::test_milestones_are_those_of_torchs_sequential",
    ],
    "What has no effect is logged": [
        "train/test_rates.py::test_training_logs_what_has_no_effect",
        "train/test_rates.py::test_the_lowest_and_the_highest_rate_of_each_epoch_are_kept",
    ],
    "that becomes NaN or infinite": [
        "train/test_nan_checks.py::test_a_loss_that_leaves_the_numbers_keeps_the_last_good_state",
        "train/test_nan_checks.py::test_a_weight_that_becomes_infinite_is_not_saved",
    ],
    "A batch that does not fit in memory": [
        "train/test_memory.py::test_under_a_real_limit_the_answer_is_true",
        "train/test_memory.py::test_the_answer_names_the_batch_size_that_was_tried",
    ],
    "The first tries learning rates": [
        "train/test_learning_rate.py::test_the_command_prints_a_chart_and_the_curve_and_leaves_no_file",
        "train/test_learning_rate.py::test_the_suggested_rate_trains_better_than_ones_far_off",
        "train/test_smoke.py::test_the_command_says_in_how_many_steps_and_leaves_no_file",
    ],
    "`initial_weights` names where": [
        "classifier/test_initial_weights.py::test_an_earlier_model_gives_its_weights",
        "classifier/test_initial_weights.py::test_the_directory_of_a_run_means_its_model",
        "train/test_fine_tuning.py::test_weights_come_from_a_bucket",
    ],
    "Files are read as torch's tutorials": [
        "classifier/test_initial_weights.py::test_weights_as_others_save_them_are_the_same_weights",
        "classifier/test_initial_weights.py::test_a_checkpoint_of_lightning",
        "classifier/test_initial_weights.py::test_other_names_are_matched_by_order_and_shape",
        "classifier/test_initial_weights.py::test_by_order_all_must_fit",
    ],
    "of several sets that fit none is guessed": [
        "classifier/test_initial_weights.py::test_of_several_that_fit_none_is_guessed",
        "classifier/test_initial_weights.py::test_what_is_read_as_nothing_is_never_what_it_was",
    ],
    "may be an architecture of torchvision": [
        "classifier/test_backbones.py::test_an_architecture_is_itself_without_its_classifying_layer",
        "classifier/test_backbones.py::test_weights_are_never_asked_of_torchvision",
    ],
    "`frozen_layers: 1` keeps that layer": [
        "train/test_fine_tuning.py::test_frozen_layers_keep_every_bit",
        "classifier/test_network.py::test_random_weights_are_not_frozen",
    ],
    "The classifying layer is taken over": [
        "classifier/test_initial_weights.py::test_another_number_of_classes_leaves_the_classifying_layer",
        "classifier/test_initial_weights.py::test_weights_that_do_not_fit_are_named_with_their_shapes",
    ],
    "is evaluated without torchvision": [
        "train/test_fine_tuning.py::test_a_backbone_is_tuned_and_evaluated_without_torchvision",
    ],
    "Pickled code in a file of weights": [
        "classifier/test_initial_weights.py::test_code_beside_weights_is_refused_and_does_not_run",
    ],
    "uses every GPU of a node": [
        "test_readme_claims.py::test_every_gpu_of_a_node_is_used_unless_one_is_named",
    ],
    "its part of every batch": [
        "train/test_group.py::test_the_curves_are_those_of_one_process",
    ],
    "counts no image twice": [
        "train/test_group.py::test_evaluation_counts_no_image_twice_and_is_that_of_one_process",
        "train/test_launch.py::test_nodes_find_each_other_by_the_platforms_variables",
    ],
    "Where a process is lost": [
        "train/test_launch.py::test_a_lost_process_starts_all_again_from_the_last_checkpoint",
        "train/test_launch.py::test_without_restarts_a_lost_process_ends_the_step",
        "kill/test_two_processes.py::test_a_killed_group",
    ],
    "are not tried again": [
        "train/test_launch.py::test_what_only_the_processes_see_is_told_once_and_not_tried_again",
    ],
    "are those of one process.": [
        "train/test_launch.py::test_sigterm_ends_all_at_one_step_and_the_run_goes_on_to_the_same_weights",
        "train/test_launch.py::test_ctrl_c_ends_all_at_one_step",
    ],
    "The pipeline's training step does the same": [
        "pipelines/test_group.py::test_the_training_step_is_done_by_a_group_and_ends_as_one_step",
    ],
    "keeps it to one.": [
        "test_readme_claims.py::test_every_gpu_of_a_node_is_used_unless_one_is_named",
    ],
    "Give such a step `gpu.count`": [
        "pipelines/settings/test_examples.py",
    ],
    "Several nodes:": [
        "train/test_launch.py::test_nodes_find_each_other_by_the_platforms_variables",
        "test_readme_claims.py::test_the_trainjob_starts_a_command_that_is_there",
    ],
    "works, too.": [
        "test_readme_claims.py::test_torchrun_starts_training_too",
    ],
    "each node fetches data once": [
        "pipelines/test_group.py::test_a_node_fetches_its_data_once_and_publishes_once",
    ],
    "BatchNorm takes its statistics": [
        "train/test_group.py::test_statistics_of_a_part_are_others_than_those_of_the_batch",
    ],
    "`sync_batch_norm: true` uses": [
        "train/test_group.py::test_what_one_process_cannot_use_all_refuse_alike",
    ],
    "Without batch statistics losses": [
        "train/test_group.py::test_the_curves_are_those_of_one_process",
    ],
    "Mixup pairs images within a part": [
        "train/test_group.py::test_mixup_pairs_images_within_a_part",
    ],
    "Resumed with another number of processes": [
        "train/test_resume.py::test_what_cannot_be_bit_exact_is_warned_of_and_goes_on",
    ],
    # What the steps leave
    "| dataset |": [
        "test_readme_claims.py::test_the_steps_leave_what_the_table_names",
        "shared/artifacts/test_dataset.py::test_what_went_in_comes_out",
    ],
    "| model |": [
        "test_readme_claims.py::test_the_steps_leave_what_the_table_names",
        "test_readme_claims.py::test_the_export_takes_bytes_and_gives_probabilities",
        "classifier/test_program.py::test_a_program_gives_the_networks_logits",
    ],
    "| evaluation |": [
        "test_readme_claims.py::test_the_steps_leave_what_the_table_names",
        "evaluate/test_evaluate.py::test_figures_are_scikit_learns_of_logits_computed_elsewhere",
    ],
    "of each two files each": [
        "test_readme_claims.py::test_checkpoints_are_two_files_each_beside_the_model",
    ],
    "`make test-kill` kills": [
        "kill/test_one_process.py::test_a_killed_training",
        "test_readme_claims.py::test_killings_are_as_many_as_asked_for_and_repeat_with_their_seed",
    ],
    "A directory without its manifest": [
        "shared/artifacts/test_artifacts.py::test_nothing_opens_before_commit",
    ],
    "gives the same `model.safetensors`": [
        "train/test_train.py::test_the_same_run_twice_gives_the_same_files",
    ],
    "The model is the epoch with the best accuracy": [
        "train/test_train.py::test_the_model_is_the_best_epoch_and_says_which",
        "train/test_train.py::test_a_validation_split_chooses_the_epoch",
        "evaluate/test_evaluate.py::test_says_how_the_epoch_was_chosen",
    ],
    "tensorboard --logdir": [
        "train/test_train.py::test_tensorboard_shows_scalars_and_curves",
        "docker/test_services.py::test_all_serve_with_topics_and_bucket_and_end_with_the_script",
    ],
    "An image may have 89 megapixels": [
        "data_prep/test_images.py::test_what_cannot_be_decoded_is_unreadable_for_a_reason_of_one_line",
        "data_prep/test_decoding_memory.py::test_half_of_what_is_free_is_shared",
        "data_prep/test_decoding_memory.py::test_images_are_decoded_side_by_side_as_far_as_memory_goes",
    ],
    "`RANK` without `WORLD_SIZE` is ignored": [
        "shared/test_run_identity.py::test_a_rank_of_no_group_is_ignored",
    ],
    "Files have the mode that umask gives": [
        "faults/test_full_disk.py::test_every_file_has_the_mode_that_umask_gives",
    ],
    "Manifests are strict JSON of at most 64 MiB": [
        "shared/artifacts/test_artifacts.py::test_a_manifest_that_is_none_is_refused",
        "shared/artifacts/test_artifacts.py::test_a_manifest_that_is_no_file_of_a_manifests_size_is_refused",
        "shared/test_files.py::test_datasets",
    ],
    "In `predictions.csv` a class whose name": [
        "evaluate/test_evaluate.py::test_no_class_is_a_formula_in_a_spreadsheet",
    ],
}
