//! Services: start, restart, stop.

use super::*;

fn service_failed(failures: u32) -> Outcome {
    let (service, message) = ("s0".to_owned(), "broken".to_owned());
    Outcome::Failed(FailureCause::ServiceFailed { service, failures, window: WINDOW, message })
}

#[test]
fn services_start_one_after_the_other_and_the_tasks_after_the_last() {
    let mut job = Job::new(setup(1, 2));
    job.tell(Event::Begin).tell(Event::Begin);
    assert_eq!(job.taken(), [start(0, 0)]);
    job.started(0).started(0);
    assert_eq!(job.taken(), [start(1, 0)]);
    job.started(1);
    assert_eq!(job.taken(), [start_tasks()]);
    assert_eq!(job.state(), JobState::Running);
}

#[test]
fn a_service_restarted_during_the_start_holds_the_next_ones_back() {
    let mut job = Job::new(setup(1, 3));
    job.tell(Event::Begin).started(0).failed(0, 0).taken();
    job.started(1);
    assert_eq!(job.taken(), [], "s0 is not up");
    job.started(0);
    assert_eq!(job.taken(), [start(2, 0)]);
    job.started(2);
    assert_eq!(job.taken(), [start_tasks()]);
}

#[test]
fn services_stop_one_by_one_in_reverse_order_once_no_task_is_live() {
    let mut job = Job::running(1, 2);
    job.finish(0);
    assert_eq!(job.taken(), [seal(true), close_gates(), stop(1, 0), Command::Arm(of_service(1))]);
    assert_eq!((job.state(), job.machine.stopping_service()), (JobState::StoppingServices, Some(ServiceId(1))));
    job.stopped(1);
    assert_eq!(job.taken(), [Command::Disarm(of_service(1)), stop(0, 0), Command::Arm(of_service(0))]);
    job.stopped(0);
    assert_eq!(job.commands, [Command::Disarm(of_service(0)), Command::Ended(Outcome::Completed)]);
    assert_eq!(job.machine.service_state(ServiceId(0)), (ActorState::Finished, 0));
}

#[test]
fn a_failed_service_is_restarted_as_its_next_incarnation() {
    let mut job = Job::running(1, 1);
    job.failed(0, 0);
    assert_eq!(job.taken(), [start(0, 1)]);
    assert_eq!(job.machine.service_state(ServiceId(0)), (ActorState::Restarting, 1));
    assert_eq!((job.machine.restarts(), job.machine.live_services()), (1, 1));
    job.started(0);
    assert_eq!(job.machine.service_state(ServiceId(0)), (ActorState::Running, 1));
}

#[test]
fn a_service_beyond_its_restart_intensity_fails_the_job() {
    let mut job = Job::running(1, 1);
    for at in [0, 4, 8] {
        job.failed(0, at).started(0);
    }
    job.taken();
    job.failed(0, 10);
    assert_eq!(job.taken(), [refuse(0), tell_tasks(TaskCommand::Cancel), Command::Arm(Deadline::Tasks)]);
    job.cancelled(0).assert_ended(service_failed(4));
    assert_eq!(job.machine.service_state(ServiceId(0)), (ActorState::Failed, 3));
}

#[test]
fn failures_outside_the_window_do_not_count() {
    let mut job = Job::running(1, 1);
    for at in [0, 4, 8, 11, 15, 22] {
        job.failed(0, at).started(0);
    }
    assert_eq!((job.state(), job.machine.restarts()), (JobState::Running, 6));
}

#[test]
fn a_service_that_cannot_start_fails_the_job() {
    let mut job = Job::new(Setup { restarts_max: 1, ..setup(1, 2) });
    job.tell(Event::Begin).failed(0, 0).taken();
    job.failed(0, 1);
    assert_eq!(job.commands[..4], [refuse(0), seal(false), close_gates(), refuse(1)]);
    job.assert_ended(service_failed(2));
}

#[test]
fn a_service_that_fails_while_the_job_is_idle_is_restarted_and_beyond_its_intensity_fails_the_job() {
    let mut job = Job::running_as(Setup { restarts_max: 1, ..setup(1, 1) });
    job.finish(0).failed(0, 0).started(0);
    assert_eq!(job.state(), JobState::Idle);
    job.failed(0, 1).assert_ended(service_failed(2));
}

#[test]
fn a_service_that_fails_while_tasks_drain_is_restarted() {
    for event in [Event::Stop, cancel()] {
        let mut job = Job::running(1, 1);
        job.tell(event).taken();
        job.failed(0, 0);
        assert_eq!(job.taken(), [start(0, 1)]);
    }
}

#[test]
fn a_service_given_up_after_a_cancel_keeps_the_job_cancelled() {
    let mut job = Job::running_as(Setup { restarts_max: 0, ..setup(1, 1) });
    job.tell(cancel()).failed(0, 0).cancelled(0).assert_ended(cancelled(0));
}

#[test]
fn a_service_that_fails_while_services_stop_is_not_restarted_and_keeps_the_outcome() {
    for failing in [0, 1] {
        let mut job = Job::running(1, 2);
        job.finish(0).failed(failing, 0).stopped(1 - failing).assert_ended(Outcome::Completed);
        assert!(job.commands.contains(&refuse(failing as u32)));
        let (service, message) = (format!("s{failing}"), "broken".to_owned());
        assert_eq!(job.machine.warnings(), [Warning::ServiceFailedLate { service, message }]);
        assert_eq!(job.machine.service_state(ServiceId(failing as u32)).0, ActorState::Failed);
    }
}

#[test]
fn a_service_between_two_instances_is_told_to_stop_once_it_has_started() {
    let mut job = Job::running(1, 1);
    job.failed(0, 0).finish(0);
    assert_eq!(job.taken(), [start(0, 1), seal(true), close_gates(), Command::Arm(of_service(0))]);
    job.started(0);
    assert_eq!(job.taken(), [stop(0, 1)]);
    job.stopped(0).assert_ended(Outcome::Completed);
}

#[test]
fn a_service_that_fails_to_start_while_it_is_to_stop_is_done_with() {
    let mut job = Job::running(1, 1);
    job.failed(0, 0).finish(0).failed(0, 0).assert_ended(Outcome::Completed);
}

#[test]
fn a_service_that_misses_its_stop_deadline_is_abandoned_and_the_outcome_kept() {
    for starting in [false, true] {
        let mut job = Job::running(1, 2);
        if starting {
            job.failed(1, 0);
        }
        job.finish(0).taken();
        job.tell(Event::Elapsed(of_service(1)));
        let abandon = order(WorkerOrder::AbandonService { service: ServiceId(1), is_final: true });
        assert_eq!(job.taken(), [abandon, stop(0, 0), Command::Arm(of_service(0))]);
        let before = job.machine.clone();
        job.started(1).stopped(1).failed(1, 0).assert_unchanged_since(&before);
        job.stopped(0).assert_ended(Outcome::Completed);
        assert_eq!(job.machine.warnings(), [Warning::ServiceAbandoned { service: "s1".to_owned() }]);
    }
}

#[test]
fn a_stop_hook_that_panicked_is_reported_and_the_outcome_kept() {
    let mut job = Job::running(1, 1);
    job.finish(0).service(0, ServiceEvent::Stopped { hook_panicked: true }, 0).assert_ended(Outcome::Completed);
    assert_eq!(job.machine.warnings(), [Warning::StopHookPanicked { service: "s0".to_owned() }]);
}

#[test]
fn a_service_that_stops_unasked_counts_as_failed() {
    let mut job = Job::running(1, 1);
    job.stopped(0);
    assert_eq!(job.taken(), [start(0, 1)]);
}

#[test]
fn a_lost_reply_is_no_failure() {
    let mut job = Job::running_as(Setup { restarts_max: 0, ..setup(1, 1) });
    let before = job.machine.clone();
    job.service(0, ServiceEvent::ReplyLost, 0).assert_unchanged_since(&before);
}

#[test]
fn events_of_another_incarnation_are_ignored() {
    let mut job = Job::running(1, 1);
    job.failed(0, 0).taken();
    let before = job.machine.clone();
    for incarnation in [0, 2] {
        let failed = ServiceEvent::Failed { message: "late".to_owned() };
        for event in [ServiceEvent::Started, failed, ServiceEvent::Stopped { hook_panicked: true }] {
            let (service, incarnation) = (ServiceId(0), Incarnation(incarnation));
            job.tell(Event::Service { attempt: Attempt(1), service, incarnation, event });
        }
    }
    job.assert_unchanged_since(&before);
}

#[test]
fn cancel_during_the_start_stops_what_was_started() {
    let mut job = Job::new(setup(1, 2));
    job.tell(Event::Begin).started(0).failed(1, 0).taken();
    job.tell(cancel());
    assert_eq!(job.taken(), [seal(false), close_gates(), Command::Arm(of_service(1))]);
    job.tell(Event::Elapsed(of_service(1))).stopped(0).assert_ended(cancelled(0));
}
