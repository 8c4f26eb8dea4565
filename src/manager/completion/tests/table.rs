//! The table of transitions in ARCHITECTURE.md, made from the machine itself.

use super::*;

/// A job of two tasks and a service, without autostop, which has come to each of its states. Where a loop or another
/// setup makes a difference, the event says so.
fn states() -> Vec<(&'static str, Job)> {
    let new = || Job::new(setup(2, 1));
    let running = || Job::running_as(setup(2, 1));
    let failed = || {
        let mut job = Job::running_as(Setup { restart: Restart::fixed(2, Duration::ZERO), ..setup(2, 1) });
        job.fail(0);
        job
    };
    let dismissing = || {
        let mut job = failed();
        job.cancelled(1);
        job
    };
    let delayed = || {
        let mut job = dismissing();
        job.stopped(0);
        job
    };
    let mut deploying = delayed();
    deploying.tell(Event::Elapsed(Deadline::Restart));
    let mut starting = new();
    starting.tell(Event::Begin);
    let mut pausing = running();
    pausing.tell(Event::Pause);
    let mut paused = running();
    paused.tell(Event::Pause).task(0, TaskEvent::Held { epoch: 1 }).task(1, TaskEvent::Held { epoch: 1 });
    let mut draining = running();
    draining.tell(Event::Stop);
    let mut dropping = running();
    dropping.tell(cancel());
    let mut idle = running();
    idle.finish(0).finish(1);
    let mut stopping = Job::running_as(setup(2, 1));
    stopping.finish(0).finish(1).tell(Event::Stop);
    let mut ended = Job::running_as(setup(2, 1));
    ended.finish(0).finish(1).tell(Event::Stop).stopped(0);
    vec![
        ("new", new()),
        ("Starting", starting),
        ("Running", running()),
        ("Pausing", pausing),
        ("Paused", paused),
        ("Draining", draining),
        ("Draining (dropping)", dropping),
        ("Restarting (tasks)", failed()),
        ("Restarting (services)", dismissing()),
        ("Restarting (delay)", delayed()),
        ("Restarting (deployment)", deploying),
        ("Idle", idle),
        ("StoppingServices", stopping),
        ("Ended", ended),
    ]
}

type Happens = fn(&mut Job);

/// What can happen to a job that is to begin anew.
fn events_between_attempts() -> Vec<(&'static str, Happens, Happens)> {
    fn row(event: &'static str, happens: Happens) -> (&'static str, Happens, Happens) {
        (event, |_| {}, happens)
    }
    vec![
        row("the last cancelled task ends", |job| {
            job.cancelled(1);
        }),
        row("the delay before the next attempt", |job| {
            job.tell(Event::Elapsed(Deadline::Restart));
        }),
        row("the next attempt is deployed", |job| {
            let attempt = job.machine.attempt();
            job.tell(Event::Deployed { attempt });
        }),
        row("the next attempt cannot be deployed", |job| {
            let (attempt, cause) = (job.machine.attempt(), FailureCause::NotBegunAnew { message: "no".to_owned() });
            job.tell(Event::Undeployed { attempt, cause });
        }),
    ]
}

/// What can happen, and what happens before it without being looked at.
fn events() -> Vec<(&'static str, Happens, Happens)> {
    fn row(event: &'static str, before: Happens, happens: Happens) -> (&'static str, Happens, Happens) {
        (event, before, happens)
    }
    fn nothing(_: &mut Job) {}
    fn one_left(job: &mut Job) {
        job.finish(0);
    }
    fn one_held(job: &mut Job) {
        let epoch = job.machine.hold_epoch;
        job.task(0, TaskEvent::Held { epoch });
    }
    fn worn(job: &mut Job) {
        for _ in 0..3 {
            job.failed(0, 0).started(0);
        }
    }
    vec![
        row("`Begin`", nothing, |job| {
            job.tell(Event::Begin);
        }),
        row("the last service has started", nothing, |job| {
            job.started(0);
        }),
        row("the last task finishes", one_left, |job| {
            job.finish(1);
        }),
        row("a task fails, another is live", nothing, |job| {
            job.fail(0);
        }),
        row("the mark has passed the last task", one_held, |job| {
            let epoch = job.machine.hold_epoch;
            job.task(1, TaskEvent::Held { epoch });
        }),
        row("a service fails", nothing, |job| {
            job.failed(0, 0);
        }),
        row("a service fails once too often", worn, |job| {
            job.failed(0, 0);
        }),
        row("the last service has stopped", nothing, |job| {
            job.stopped(0);
        }),
        row("`Stop`, a lease that expires", nothing, |job| {
            job.tell(Event::Stop);
        }),
        row("`Cancel`, the run limit", nothing, |job| {
            job.tell(cancel());
        }),
        row("`Pause`", nothing, |job| {
            // A conflict, where it is one, changes nothing.
            job.commands.extend(job.machine.apply(Event::Pause, Duration::ZERO).unwrap_or_default());
        }),
        row("`Resume`", nothing, |job| {
            job.tell(Event::Resume);
        }),
        row("the deadline of tasks", nothing, |job| {
            job.tell(Event::Elapsed(Deadline::Tasks));
        }),
        row("the deadline of a service", nothing, |job| {
            job.tell(Event::Elapsed(of_service(0)));
        }),
    ]
}

fn told(command: &Command) -> String {
    match command {
        Command::Deploy { .. } => "deploy the next attempt".to_owned(),
        Command::StartTasks { .. } => "start tasks".to_owned(),
        Command::Arm(deadline) => format!("arm {}", named(*deadline)),
        Command::Disarm(deadline) => format!("disarm {}", named(*deadline)),
        Command::SealOutputs { complete: true } => "seal outputs as whole".to_owned(),
        Command::SealOutputs { complete: false } => "seal outputs as cut off".to_owned(),
        Command::Ended(_) => "tell the outcome".to_owned(),
        Command::Order { order, .. } => match order {
            WorkerOrder::StartService { .. } => "start a service".to_owned(),
            WorkerOrder::StopService { .. } => "stop the last service".to_owned(),
            WorkerOrder::DismissService { .. } => "dismiss the last service".to_owned(),
            WorkerOrder::EndAttempt => "forget the attempt".to_owned(),
            WorkerOrder::AbandonService { .. } => "abandon it".to_owned(),
            WorkerOrder::RefuseCalls { .. } => "refuse its calls".to_owned(),
            WorkerOrder::CloseGates => "close the gates".to_owned(),
            WorkerOrder::AbandonTasks { .. } => "abandon tasks".to_owned(),
            WorkerOrder::CommandTasks { command: TaskCommand::Hold { .. }, .. } => "tasks hold".to_owned(),
            WorkerOrder::CommandTasks { command, .. } => format!("tasks {}", format!("{command:?}").to_lowercase()),
            other => format!("{other:?}"),
        },
    }
}

fn named(deadline: Deadline) -> &'static str {
    match deadline {
        Deadline::Tasks => "tasks",
        Deadline::Service(_) => "service",
        Deadline::Loops => "loops",
        Deadline::RunLimit => "run limit",
        Deadline::Restart => "restart",
    }
}

/// One row for each reaction to an event, with the states that react so. What has no effect has no row.
fn table() -> Vec<String> {
    let mut rows: Vec<(&str, Vec<&str>, String)> = Vec::new();
    for (event, before, happens) in events().into_iter().chain(events_between_attempts()) {
        for (state, mut job) in states() {
            let state_before = job.state();
            before(&mut job);
            job.taken();
            let was = job.machine.clone();
            if was.state() != state_before {
                continue;
            }
            happens(&mut job);
            if job.machine == was && job.commands.is_empty() {
                continue;
            }
            let mut effects: Vec<String> = job.commands.iter().map(told).collect();
            if let Some(verdict) = job.machine.verdict()
                && was.verdict() != Some(verdict)
            {
                let name = format!("{verdict:?}");
                let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned();
                effects.insert(0, format!("verdict {name}"));
            }
            let then = if job.state() == was.state() { "as it was".to_owned() } else { format!("{:?}", job.state()) };
            let effect = if effects.is_empty() { "-".to_owned() } else { effects.join(", ") };
            let reaction = format!("{then} | {effect}");
            match rows.iter_mut().find(|(of, _, known)| *of == event && *known == reaction) {
                Some((_, states, _)) => states.push(state),
                None => rows.push((event, vec![state], reaction)),
            }
        }
    }
    rows.into_iter()
        .map(|(event, states, reaction)| format!("| {event} | {} | {reaction} |", states.join(", ")))
        .collect()
}

#[test]
fn the_table_of_transitions_is_what_the_machine_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).expect("it is there");
    let head = "| event | in | then | verdict and commands |";
    let (_, below) = text.split_once(head).expect("the table is there");
    let stated: Vec<&str> = below.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let made = table();
    assert!(stated == made, "the table should be:\n{head}\n|---|---|---|---|\n{}", made.join("\n"));
}
