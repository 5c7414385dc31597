"""Faults whose tests are next to the code that they cover."""

from __future__ import annotations

from .catalogue import proved_by

SWEPT = "None: the next start removes it. `picolab clean` removes it at once; `--dry-run` only lists it."
AGAIN = "None: the campaign retries with a new machine. By hand, run the notebook from its first cell."

# The machine: a process in a memory cgroup

for test, name, outcome, see, do in (
    (
        "trial/test_trial_outcomes.py::test_a_killed_keeper_is_machine_failed",
        "keeper killed in the upload",
        "machine_failed",
        "`machine_failed` in stage upload; the record holds the measurements so far.",
        AGAIN,
    ),
    (
        "machines/local/test_local_machine.py::test_a_keeper_that_hangs_is_ended",
        "keeper hangs",
        "machine_failed",
        "The machine is taken down and made anew.",
        AGAIN,
    ),
    (
        "machines/local/test_local_machine.py::test_a_killed_keeper_ends_its_server_and_a_sweep_cleans_up",
        "killed keeper leaves cgroup and folders",
        "ok",
        "None, or the folder of a dead machine in `picolab doctor`.",
        SWEPT,
    ),
    (
        "machines/local/test_local_machine.py::test_a_new_machine_replaces_what_a_killed_keeper_has_left",
        "stale state of a machine of the same name",
        "ok",
        "None.",
        "None: it is replaced.",
    ),
    (
        "machines/local/test_local_machine.py::test_when_the_holder_is_gone_everything_is_taken_down",
        "holder of a machine is gone",
        "ok",
        "The machine is no longer in `picolab machines list`.",
        "None: the keeper takes it down within a second.",
    ),
    (
        "machines/local/test_local_machine.py::test_deleting_the_state_folder_takes_the_machine_down",
        "state folder of a machine deleted",
        "machine_failed",
        "`machine_failed` in the running stage.",
        AGAIN,
    ),
    (
        "machines/local/test_local_machine.py::test_a_machine_held_by_somebody_alive_is_refused",
        "machine held by another process",
        "refused",
        "`the machine ... is held by process`",
        "End that notebook or command, choose another `machine_name`, or `picolab machines remove NAME`.",
    ),
    (
        "machines/local/test_local_machine.py::test_two_processes_at_once_and_exactly_one_wins",
        "two processes want one machine at once",
        "refused",
        "One of them works, the other reports who holds the machine.",
        "Wait, or choose another `machine_name`.",
    ),
    (
        "machines/local/test_local_machine.py::test_an_unusable_work_dir_is_refused_in_one_sentence",
        "work_dir that cannot be used",
        "refused",
        "One sentence with the folder and the reason.",
        "Name another folder.",
    ),
    (
        "machines/local/test_keeper.py::test_a_server_that_cannot_be_started_is_not_said_to_run",
        "build that cannot be started",
        "machine_failed",
        "The kernel's error for the program.",
        "Check that the file is a program for this processor.",
    ),
    # The machine: a virtual one
    (
        "machines/vagrant/test_vagrant_machine.py::test_a_machine_whose_power_is_cut_is_a_fault_and_soon",
        "virtual machine destroyed while in use",
        "machine_failed",
        "`machine_failed` within seconds, not after a time limit.",
        AGAIN,
    ),
    (
        "machines/vagrant/test_vagrant_machine.py::test_a_suspended_machine_gets_the_wanted_memory",
        "virtual machine suspended",
        "ok",
        "None: it is resumed, or made anew for another memory size.",
        "None.",
    ),
    (
        "machines/vagrant/test_vagrant_command.py::test_at_its_limit_it_may_clean_up",
        "virtual machine does not boot in time",
        "machine_failed",
        "The exceeded limit, and the end of Vagrant's log.",
        "Raise `boot_limit_s`; `picolab doctor` checks acceleration, network and base volume.",
    ),
    (
        "agent/test_agent.py::test_a_full_disk_does_not_hide_how_the_server_ended",
        "disk of the guest is full",
        "disk_full",
        "The server's message, or its exit status.",
        "Use a box with a larger disk, or smaller files.",
    ),
    (
        "machines/vagrant/test_checks.py::test_full_pool",
        "storage pool of the virtual machines is full",
        "refused",
        "`picolab doctor` reports the free space and the remedy.",
        "Remove unused machines and boxes (`picolab machines list`, `picolab box list`).",
    ),
    (
        "machines/vagrant/test_vagrant_trial.py::test_a_killed_campaign_is_swept_and_resumed",
        "virtual machine without a holder",
        "ok",
        "None.",
        SWEPT,
    ),
    (
        "machines/vagrant/test_vagrant_left_over.py::test_a_lost_dotfile_folder_is_mended",
        "Vagrant's state of a machine lost",
        "ok",
        "A sentence in the record's `mended`.",
        "None: it is fixed automatically.",
    ),
    (
        "machines/vagrant/test_vagrant_left_over.py::test_a_machine_whose_state_folder_was_deleted_is_swept",
        "virtual machine whose state folder was deleted",
        "ok",
        "None.",
        SWEPT,
    ),
    (
        "machines/vagrant/test_vagrant_left_over.py::test_a_truncated_base_volume_is_mended",
        "base volume of the box truncated",
        "ok",
        "A sentence in the record's `mended`.",
        "None: it is copied again.",
    ),
    (
        "machines/vagrant/test_libvirt.py::test_base_volume_that_somebody_is_copying_is_waited_for",
        "base volume that another process is copying",
        "ok",
        "None: picolab waits for it.",
        "None.",
    ),
    (
        "machines/vagrant/test_libvirt.py::test_second_gets_the_lock_of_one_that_has_ended",
        "lock file of a process that has ended",
        "ok",
        "None: the kernel released the lock.",
        "None; never delete lock files by hand.",
    ),
    (
        "machines/vagrant/test_libvirt.py::test_libvirt_that_hangs_is_not_waited_for",
        "libvirt hangs",
        "machine_failed",
        "`libvirt` and the time that picolab waited for it.",
        "Restart the daemon; `picolab doctor` prints the command.",
    ),
    (
        "machines/vagrant/test_vagrant_command.py::test_vagrant_that_was_killed",
        "Vagrant killed",
        "machine_failed",
        "The signal that killed Vagrant.",
        AGAIN,
    ),
    (
        "machines/vagrant/test_vagrant_command.py::test_action_lock_that_stays_is_told_with_its_owner",
        "Vagrant's lock of the machine is held by another call",
        "machine_failed",
        "The pid of the lock's holder.",
        "Wait for that process, or end it.",
    ),
    (
        "machines/vagrant/test_vagrant_machine.py::test_another_host_key_is_refused",
        "another machine answers at the guest's address",
        "machine_failed",
        "The host key differs from the pinned one.",
        "`picolab machines remove NAME`, then retry.",
    ),
    (
        "machines/vagrant/test_vagrant_machine.py::test_a_killed_probe_has_no_last_line",
        "probe in the guest killed",
        "invalid",
        "`the memory probe ended too early`",
        AGAIN,
    ),
    (
        "agent/test_agent.py::test_a_launch_of_a_killed_agent_leaves_one_server_or_none",
        "agent in the guest killed while starting a server",
        "machine_failed",
        "`the agent in the guest has ended`",
        AGAIN,
    ),
    (
        "agent/test_agent.py::test_a_server_of_another_boot_is_none",
        "guest rebooted under a server",
        "server_died",
        "The server of that boot is gone.",
        AGAIN,
    ),
    (
        "machines/vagrant/test_vagrant_faults.py::test_a_guest_that_thrashes_is_a_result",
        "guest short of memory for long before the OOM killer acts",
        "oom_killed",
        "`the kernel killed the server at the limit of`, or `stalled` if no byte was delivered for the stall limit.",
        "None: a result. The probe's pages are locked in memory, so it samples until the end.",
    ),
    (
        "agent/test_memory_probe.py::test_without_permission_to_lock_pages_it_samples_and_says_so",
        "probe may not lock its pages",
        "ok",
        "The caveat `probe_not_locked`, in a virtual machine.",
        "Use a box whose user has `sudo` and whose Python has `ctypes`.",
    ),
    (
        "machines/vagrant/test_vagrant_faults.py::test_a_machine_suspended_in_the_upload",
        "virtual machine suspended in the upload",
        "machine_failed",
        "`the virtual machine does not run any more: it is suspended`, soon after the stall limit.",
        AGAIN,
    ),
    (
        "machines/vagrant/test_vagrant_faults.py::test_a_machine_destroyed_in_the_upload",
        "virtual machine destroyed in the upload",
        "machine_failed",
        "`the virtual machine does not run any more: it is off`, soon after the stall limit.",
        AGAIN,
    ),
    (
        "machines/vagrant/test_vagrant_faults.py::test_a_full_disk_in_the_guest_is_the_servers_answer",
        "disk of the guest fills up before the upload",
        "disk_full",
        "`the server answered 400: ... disk is full`; log, status and the time to stop are complete.",
        "None: a result. Use a box with a larger disk, or smaller files.",
    ),
    (
        "machines/vagrant/test_vagrant_faults.py::test_a_full_disk_of_this_host_in_the_upload",
        "disk of this host full in an upload to a virtual machine",
        "machine_failed",
        "`it is suspended, because the file system of its disk in ... is full`, soon after the stall limit.",
        "Free some space there. The campaign retries with a new machine, whose disk is small again. By hand, run the "
        "notebook from its first cell.",
    ),
    (
        "machines/vagrant/test_full_places.py::test_a_full_pool_is_named_by_whatever_fails",
        "disk of this host full in the boot of a virtual machine",
        "machine_failed",
        "The free space of libvirt's pool, the state folder, Vagrant's folder and TMPDIR.",
        "Free some space there.",
    ),
    (
        "machines/vagrant/test_full_places.py::test_a_machine_is_removed_though_its_state_folder_is_full",
        "virtual machine whose state folder is full",
        "ok",
        "None.",
        "None: `picolab machines remove NAME`, its keeper and the next start remove it all the same.",
    ),
    (
        "machines/vagrant/test_reach.py::test_a_state_that_cannot_be_saved",
        "state of a virtual machine cannot be saved after its boot",
        "ok",
        "A sentence in the record's `mended`; with `fresh_machine: per_trial` or `per_block` `machine_failed`.",
        "Free some space in libvirt's pool.",
    ),
    (
        "machines/vagrant/test_reach.py::test_a_guest_with_another_address_is_found_there",
        "virtual machine gets another address at its boot",
        "ok",
        "None.",
        "None: its new address is looked up.",
    ),
    (
        "machines/vagrant/test_reach.py::test_a_guest_that_ends_in_its_boot_is_not_late",
        "virtual machine ends while it boots",
        "machine_failed",
        "`the virtual machine does not run any more: it is off`, at once.",
        AGAIN,
    ),
    (
        "campaign/test_several_machines.py::test_machines_that_cannot_be_taken_down_spoil_no_result",
        "machine cannot be taken down at the end of a campaign",
        "ok",
        "`could not be taken down`, with the reason, for each such machine.",
        "`picolab machines remove NAME` when the reason is gone.",
    ),
    (
        "machines/vagrant/test_vagrant_faults.py::test_lost_notes_of_vagrant_then_killed_in_up",
        "Vagrant killed while a machine boots",
        "machine_failed",
        "`ended by SIGKILL`; then a sentence in the record's `mended`.",
        "None: the next trial removes the half-made machine first.",
    ),
    (
        "machines/vagrant/test_vagrant_faults.py::test_lost_notes_of_vagrant_then_killed_in_up",
        "Vagrant's folder of a running machine removed",
        "ok",
        "A sentence in the record's `mended`, when the machine has to boot.",
        "None: it is made anew.",
    ),
    (
        "machines/vagrant/test_vagrant_faults.py::test_two_campaigns_that_want_one_machine",
        "two campaigns want one virtual machine",
        "refused",
        "`the machine 'vm' is held by process`",
        "Wait for the first, or choose another name; `picolab resume CAMPAIGN` then runs the second.",
    ),
    (
        "machines/vagrant/test_stopped_libvirt.py::test_a_stopped_libvirtd_is_refused",
        "libvirtd stopped",
        "refused",
        "`the daemon libvirtd does not answer`, and the command that starts it.",
        "Run that command.",
    ),
    (
        "machines/vagrant/test_stopped_libvirt.py::test_a_stopped_network_is_refused",
        "network of the virtual machines stopped",
        "refused",
        "`libvirt's network vagrant-libvirt is inactive`, and the command that starts it.",
        "Run that command.",
    ),
    (
        "machines/vagrant/test_stopped_libvirt.py::test_a_stopped_pool_is_refused",
        "storage pool of the virtual machines stopped",
        "refused",
        "`libvirt's pool default is inactive`, and the command that starts it.",
        "Run that command.",
    ),
):
    proved_by(test, name, group="machine", outcome=outcome, see=see, do=do)

# A campaign's own files

for test, name, outcome, see, do in (
    (
        "results/test_ledger.py::test_line_torn_by_a_crash_costs_only_itself",
        "torn line in the ledger",
        "ok",
        "The report lists the line as a problem.",
        "None: `picolab resume` files that trial or runs it again.",
    ),
    (
        "results/test_load.py::test_everything_broken_is_listed_and_the_rest_counts",
        "damaged notebooks among the results",
        "ok",
        "The report lists each as a problem; the rest counts.",
        "Check the named file.",
    ),
    (
        "results/test_load.py::test_a_trial_with_a_lost_notebook_counts_by_its_own_files",
        "notebook of a result lost",
        "ok",
        "The report lists it; the trial counts by its record file.",
        "None.",
    ),
    (
        "results/test_load.py::test_a_notebook_run_again_by_hand_is_listed_not_counted",
        "notebook of a result run again by hand",
        "ok",
        "The report lists it; it does not count.",
        "Run a copy of it elsewhere.",
    ),
    (
        "results/test_load.py::test_a_trial_that_is_not_in_the_plan_does_not_count",
        "trial among the results that is not in the plan",
        "ok",
        "The report lists it; it does not count.",
        "Move it out of the campaign.",
    ),
    (
        "config/test_plan.py::test_spoilt_plan_is_refused_in_one_sentence",
        "damaged plan",
        "refused",
        "One sentence with the file and the problem.",
        "Restore the file; a campaign cannot continue without its plan.",
    ),
    (
        "campaign/test_campaign.py::test_only_one_process_runs_a_campaign",
        "two processes run one campaign",
        "refused",
        "`is being run by another process`",
        "Wait; `picolab status CAMPAIGN` shows its progress.",
    ),
    (
        "campaign/test_campaign.py::test_a_campaign_is_never_overwritten",
        "campaign of the same name exists",
        "refused",
        "`is already there; continue with`",
        "`picolab resume CAMPAIGN`, or another name with `--campaign`.",
    ),
    (
        "report/test_report.py::test_a_failed_analysis_keeps_the_report_and_its_traceback",
        "analysis of a report fails",
        "ok",
        "`the analysis failed`; the previous page stays.",
        "Open `analysis.failed.ipynb` in the campaign's folder.",
    ),
):
    proved_by(test, name, group="campaign", outcome=outcome, see=see, do=do)

# Input of a user

for test, name, see, do in (
    (
        "campaign/test_campaign.py::test_a_build_that_is_not_there",
        "missing build",
        "`there is no such file`",
        "Name an existing file, a release, or `calibration`.",
    ),
    (
        "config/test_parameters.py::test_whatever_is_not_a_mapping_is_refused",
        "parameter file that is not a mapping",
        "One sentence with the file's name.",
        "Copy `parameters/quick.yaml` and edit it.",
    ),
    (
        "config/test_plan.py::test_too_many_trials_are_refused_before_they_are_made",
        "matrix of millions of trials",
        "The number of trials.",
        "Use fewer levels or repeats.",
    ),
):
    proved_by(test, name, group="input", outcome="refused", see=see, do=do)

# Measurements on a full disk

for test, name, outcome, see, do in (
    (
        "campaign/test_full_disk.py::test_a_single_trial_survives_a_disk_full_in_its_upload",
        "disk of the outputs fills up in the upload",
        "ok",
        "The record is written to reserved space; the notebook or the samples may be missing, with a reason.",
        "Free some space; the measurement is complete.",
    ),
    (
        "campaign/test_full_disk.py::test_a_campaign_resumes_after_its_disk_was_full",
        "disk of the outputs fills up in a campaign",
        "ok",
        "One sentence with file and file system; the campaign ends.",
        "Free some space, then `picolab resume CAMPAIGN`.",
    ),
    (
        "campaign/test_full_disk.py::test_without_room_for_the_result_the_upload_does_not_begin",
        "no room for the result before the upload",
        "refused",
        "`the upload was not begun`, with the full file system.",
        "Free some space, then `picolab resume CAMPAIGN`.",
    ),
    (
        "campaign/test_full_disk.py::test_a_full_state_folder_is_named_before_measuring",
        "disk of the state folder is full",
        "refused",
        "One sentence with the full file system.",
        "Free some space, or set PICOLAB_STATE_DIR to a folder on another disk.",
    ),
    (
        "campaign/test_full_disk.py::test_the_probe_outlives_a_disk_that_is_full_for_a_while",
        "disk of the samples is temporarily full",
        "ok",
        "A gap in the samples.",
        "None: the kernel's own counter keeps the peak.",
    ),
    (
        "campaign/test_nothing_left.py::test_sigkill",
        "picolab killed, its kernel's folder left",
        "ok",
        "A folder `picolab-kernel-...` in TMPDIR, until the next start.",
        SWEPT,
    ),
    (
        "campaign/test_nothing_left.py::test_sigkill_of_a_notebook_by_hand",
        "notebook by hand killed",
        "interrupted",
        "Jupyter's connection file, until the next start.",
        "Run the notebook again: it continues while the machine is kept.",
    ),
    (
        "campaign/test_nothing_left.py::test_a_long_tmpdir_is_no_obstacle",
        "TMPDIR path too long for sockets",
        "ok",
        "None: picolab uses another folder.",
        "None.",
    ),
):
    proved_by(test, name, group="host", outcome=outcome, see=see, do=do)

for test, name, outcome, see, do in (
    (
        "results/test_standing.py::test_removed_results_are_named_and_measured_again",
        "results of a campaign removed",
        "ok",
        "`picolab status` lists the missing results.",
        "`picolab resume CAMPAIGN` measures it again.",
    ),
    (
        "results/test_standing.py::test_record_with_other_parameters_than_planned_is_no_result",
        "record with parameters other than planned",
        "invalid",
        "The difference, listed as a problem.",
        "`picolab resume CAMPAIGN` measures it again; find out why the notebook was edited.",
    ),
    (
        "results/test_standing.py::test_an_edited_plan_is_refused_and_named",
        "plan edited after results",
        "refused",
        "The changes since the campaign began.",
        "Undo the change, or start a new campaign.",
    ),
    (
        "results/test_standing.py::test_another_executable_is_refused_or_accepted_on_record",
        "build replaced in the middle of a campaign",
        "refused",
        "The old and the new sha256.",
        "Restore the build, or start a new campaign; `--accept-changes` continues and is recorded.",
    ),
    (
        "results/test_standing.py::test_another_host_is_refused",
        "campaign resumed on another host",
        "refused",
        "The changes of the host.",
        "Resume it on the original host, or start a new campaign.",
    ),
    (
        "files/test_foreign_files.py::test_a_name_that_is_a_path_is_refused",
        "path in place of a name in a plan",
        "refused",
        "The name, and that it is invalid.",
        "Do not trust that campaign folder.",
    ),
    (
        "files/test_foreign_files.py::test_a_hostile_plan_is_one_sentence_in_bounded_memory",
        "plan that is endless, deeply nested or huge",
        "refused",
        "One sentence with the file's name.",
        "Do not trust that campaign folder.",
    ),
    (
        "files/test_foreign_files.py::test_what_is_no_file_or_too_large_is_one_sentence_at_once",
        "pipe, device or folder in place of a file",
        "refused",
        "`is ..., not a file`",
        "Do not trust that campaign folder.",
    ),
):
    proved_by(test, name, group="campaign", outcome=outcome, see=see, do=do)

for test, name, see, do in (
    (
        "servers/test_executable.py::test_every_door_refuses_before_the_first_trial",
        "build for another processor, truncated, or without its interpreter",
        "One sentence with the reason why the file cannot run here.",
        "Name an executable for this processor.",
    ),
    (
        "servers/test_guest_program.py::test_it_is_refused_before_anything_starts",
        "build that the guest cannot start",
        "`cannot run in the virtual machine`, with the missing interpreter, library or version of glibc.",
        "Build it static, or for the system in the box.",
    ),
    (
        "config/test_yaml_text.py::test_hostile_text_is_one_sentence_with_few_steps",
        "parameter file with exponential aliases",
        "One sentence, at once.",
        "Write the values out.",
    ),
    (
        "config/test_yaml_text.py::test_what_is_no_file_is_refused_at_once",
        "parameter file that is a device or a pipe",
        "One sentence, at once.",
        "Name a file.",
    ),
    (
        "machines/test_kept_machine.py::test_a_trial_by_command_is_refused",
        "machine name taken by a kept machine",
        "The machine and the trial that keeps it.",
        "`picolab machines remove NAME`, or another `machine_name`.",
    ),
):
    proved_by(test, name, group="input", outcome="refused", see=see, do=do)
