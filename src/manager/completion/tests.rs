//! One test for each rule of completion.

mod accounts;
mod attempts;
mod loops;
mod pausing;
mod services;
mod table;
mod tasks;

use std::time::Duration;

use super::{ChannelSetup, Command, Completion, Conflict, Deadline, Event, Setup, TaskSetup};
use crate::{
    job::{
        ActorState, Attempt, CancelReason, FailureCause, Incarnation, JobState, Outcome, Restart, ServiceId, TaskId,
        Warning,
    },
    protocol::{OperatorAccount, Received, Sent, ServiceEvent, TaskCommand, TaskEvent, TaskReport, WorkerOrder},
};

const WINDOW: Duration = Duration::from_secs(10);

/// A machine, and all the commands it gave since they were last taken.
struct Job {
    machine: Completion,
    commands: Vec<Command>,
}

/// Tasks `t0`, `t1`, ..: a chain with one channel from each to the next, each with one operator.
fn setup(tasks: u32, services: usize) -> Setup {
    let channel = |at| ChannelSetup { from: TaskId(at), to: TaskId(at + 1), name: format!("t{at} -> t{}", at + 1) };
    Setup {
        tasks: (0..tasks)
            .map(|at| TaskSetup { name: format!("t{at}"), operators: vec![format!("o{at}")], service: None })
            .collect(),
        channels: (0..tasks.saturating_sub(1)).map(channel).collect(),
        services: (0..services).map(|at| format!("s{at}")).collect(),
        loops: Vec::new(),
        autostop: false,
        run_limit: false,
        restarts_max: 3,
        restart_window: WINDOW,
        restart: Restart::never(),
    }
}

impl Job {
    fn new(setup: Setup) -> Self {
        Self { machine: Completion::new(setup), commands: Vec::new() }
    }

    /// Begun, with all services up and the tasks started, under autostop.
    fn running(tasks: u32, services: usize) -> Self {
        Self::running_as(Setup { autostop: true, ..setup(tasks, services) })
    }

    fn running_as(setup: Setup) -> Self {
        let services = setup.services.len();
        let mut job = Self::new(setup);
        job.tell(Event::Begin);
        for service in 0..services {
            job.started(service);
        }
        job.taken();
        job
    }

    fn tell(&mut self, event: Event) -> &mut Self {
        self.tell_at(event, 0)
    }

    fn tell_at(&mut self, event: Event, at_secs: u64) -> &mut Self {
        let commands = self.machine.apply(event, Duration::from_secs(at_secs));
        self.commands.extend(commands.expect("no event but a pause can conflict"));
        self
    }

    fn taken(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    fn task(&mut self, task: u32, event: TaskEvent) -> &mut Self {
        self.tell(Event::Task { attempt: self.machine.attempt(), task: TaskId(task), event })
    }

    fn finish(&mut self, task: u32) -> &mut Self {
        let report = self.report(task);
        self.task(task, TaskEvent::Finished(report))
    }

    fn fail(&mut self, task: u32) -> &mut Self {
        let report = self.report(task);
        self.task(task, TaskEvent::Failed { cause: broken(task), report })
    }

    fn cancelled(&mut self, task: u32) -> &mut Self {
        let report = self.report(task);
        self.task(task, TaskEvent::Cancelled(report))
    }

    /// A report that balances: every channel carried seven items.
    fn report(&self, task: u32) -> TaskReport {
        let ends = |is_end: fn(&ChannelSetup) -> TaskId| {
            self.machine.setup.channels.iter().filter(|channel| is_end(channel) == TaskId(task)).count()
        };
        TaskReport {
            cut_short: false,
            received: vec![Received { received: 7, ..Received::default() }; ends(|channel| channel.to)],
            sent: vec![Sent { sent: 7, dropped: 0 }; ends(|channel| channel.from)],
            operators: vec![OperatorAccount { received: 7, processed: 7, ..OperatorAccount::default() }],
            ..TaskReport::default()
        }
    }

    fn service(&mut self, service: usize, event: ServiceEvent, at_secs: u64) -> &mut Self {
        let service = ServiceId(service as u32);
        let (attempt, incarnation) = (self.machine.attempt(), self.machine.incarnation(service));
        self.tell_at(Event::Service { attempt, service, incarnation, event }, at_secs)
    }

    fn started(&mut self, service: usize) -> &mut Self {
        self.service(service, ServiceEvent::Started, 0)
    }

    fn failed(&mut self, service: usize, at_secs: u64) -> &mut Self {
        self.service(service, ServiceEvent::Failed { message: "broken".to_owned() }, at_secs)
    }

    fn stopped(&mut self, service: usize) -> &mut Self {
        self.service(service, ServiceEvent::Stopped { hook_panicked: false }, 0)
    }

    fn state(&self) -> JobState {
        self.machine.state()
    }

    #[track_caller]
    fn assert_ended(&mut self, outcome: Outcome) {
        assert_eq!(self.commands.last(), Some(&Command::Ended(outcome.clone())));
        assert_eq!(self.machine.outcome(), Some(&outcome));
        assert_eq!((self.machine.live_tasks(), self.machine.live_services()), (0, 0));
    }

    /// Nothing was commanded and nothing has changed since `before` was cloned from the machine.
    #[track_caller]
    fn assert_unchanged_since(&self, before: &Completion) {
        assert_eq!(self.commands, []);
        assert_eq!(&self.machine, before);
    }
}

fn broken(task: u32) -> FailureCause {
    FailureCause::Operator { operator: format!("o{task}"), instance: 0, position: 1, message: "broken".to_owned() }
}

fn cancel() -> Event {
    Event::Cancel(CancelReason::Requested)
}

fn cancelled(dropped: u64) -> Outcome {
    Outcome::Cancelled { reason: CancelReason::Requested, dropped }
}

fn order(order: WorkerOrder) -> Command {
    Command::Order { attempt: Attempt(1), order }
}

fn start(service: u32, incarnation: u32) -> Command {
    let (service, incarnation) = (ServiceId(service), Incarnation(incarnation));
    order(WorkerOrder::StartService { service, incarnation })
}

fn stop(service: u32, incarnation: u32) -> Command {
    let (service, incarnation) = (ServiceId(service), Incarnation(incarnation));
    order(WorkerOrder::StopService { service, incarnation })
}

fn refuse(service: u32) -> Command {
    order(WorkerOrder::RefuseCalls { service: ServiceId(service) })
}

fn close_gates() -> Command {
    order(WorkerOrder::CloseGates)
}

fn start_tasks() -> Command {
    Command::StartTasks { attempt: Attempt(1) }
}

fn tell_tasks(command: TaskCommand) -> Command {
    order(WorkerOrder::CommandTasks { command })
}

fn seal(complete: bool) -> Command {
    Command::SealOutputs { complete }
}

fn of_service(service: u32) -> Deadline {
    Deadline::Service(ServiceId(service))
}
