//! What is kept of a job: while it runs, and after it has ended.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    job::{
        ChannelNode, DeadLetter, DeadLetters, Explanation, Graph, JobId, JobState, JobStatus, Limits, Outcome, Restart,
        ServiceId, ServiceStatus, TaskCounters, TaskId, TaskNode, TaskStatus,
    },
    link::{Control, Holds, JobRequest, Opened, OutputTypes, Refusal, Reply},
    manager::{
        archive::PlainJob,
        completion::{ChannelSetup, Completion, Setup, TaskSetup},
        history::Kept,
    },
    port::OutputStore,
    protocol::Progress,
};

/// The facts about a job that its completion rules do not need.
pub(crate) struct JobRecord {
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) autostop: bool,
    pub(crate) graph: Arc<Graph>,
    /// The worker of each task that is in another process; shorter if there is none.
    pub(crate) workers: Vec<Option<String>>,
    /// The same by service.
    pub(crate) service_workers: Vec<Option<String>>,
    /// Last counters of tasks that ended on workers of other processes, which may be gone since.
    pub(crate) counted: BTreeMap<TaskId, TaskCounters>,
    pub(crate) submitted_at: SystemTime,
    pub(crate) started_at: Option<SystemTime>,
    pub(crate) ended_at: Option<SystemTime>,
    pub(crate) dead: DeadLetterBox,
    pub(crate) lease: Option<Duration>,
    pub(crate) holds: Holds,
}

impl JobRecord {
    /// What the completion rules need to know of the job.
    pub(crate) fn setup(&self, run_limit: bool, limits: &Limits, restart: Restart) -> Setup {
        let task = |task: &TaskNode| TaskSetup {
            name: task.name.clone(),
            operators: task.operators.clone(),
            service: task.service,
        };
        let channel =
            |channel: &ChannelNode| ChannelSetup { from: channel.from, to: channel.to, name: channel.name.clone() };
        Setup {
            tasks: self.graph.tasks.iter().map(task).collect(),
            channels: self.graph.channels.iter().map(channel).collect(),
            services: self.graph.services.clone(),
            loops: self.graph.loops.clone(),
            autostop: self.autostop,
            run_limit,
            restarts_max: limits.restarts_max,
            restart_window: limits.restart_window,
            restart,
        }
    }

    /// The job's last time so far. The clock may have been set back since.
    pub(crate) fn began(&self) -> SystemTime {
        self.started_at.unwrap_or(self.submitted_at)
    }

    /// A snapshot; `progress` supplies the counters.
    pub(crate) fn status(&self, completion: &Completion, progress: &Progress) -> JobStatus {
        let mut status = self.uncounted(completion);
        count(&mut status, progress);
        status
    }

    /// A snapshot whose counters are yet to be [`count`]ed.
    pub(crate) fn uncounted(&self, completion: &Completion) -> JobStatus {
        let service = |(index, name): (usize, &String)| {
            let (state, restarts) = completion.service_state(service_id(index));
            let worker = self.service_worker(service_id(index)).map(str::to_owned);
            ServiceStatus { name: name.clone(), state, handled: 0, queued: 0, restarts, worker }
        };
        JobStatus {
            id: self.id,
            name: self.name.clone(),
            state: completion.state(),
            outcome: completion.outcome().cloned(),
            autostop: self.autostop,
            version: completion.version(),
            task_count: completion.live_tasks(),
            service_count: completion.live_services(),
            restarts: completion.restarts(),
            attempt: completion.attempt().0,
            last_failure: completion.last_failure().cloned(),
            dead_letters: self.dead.total,
            warnings: completion.warnings().to_vec(),
            submitted_at: self.submitted_at,
            started_at: self.started_at,
            ended_at: self.ended_at,
            lease: self.lease,
            held_by: self.holds.holder(),
            tasks: self.graph.tasks.iter().map(|task| self.task_status(task, completion)).collect(),
            services: self.graph.services.iter().enumerate().map(service).collect(),
        }
    }
}

impl JobRecord {
    /// The worker of the service, if it is in another process.
    pub(crate) fn service_worker(&self, service: ServiceId) -> Option<&str> {
        self.service_workers.get(service.index())?.as_deref()
    }

    fn task_status(&self, task: &TaskNode, completion: &Completion) -> TaskStatus {
        TaskStatus {
            id: Some(task.id),
            name: task.name.clone(),
            instance: task.instance,
            state: completion.task_state(task.id),
            worker: self.workers.get(task.id.index()).cloned().flatten(),
            counters: self.counted.get(&task.id).copied().unwrap_or_default(),
        }
    }
}

/// Enters the counters.
pub(crate) fn count(status: &mut JobStatus, progress: &Progress) {
    for (task, counters, _) in &progress.tasks {
        if let Some(status) = status.tasks.get_mut(task.index()) {
            status.counters = *counters;
        }
    }
    for counts in &progress.services {
        if let Some(status) = status.services.get_mut(counts.service.index()) {
            (status.handled, status.queued) = (counts.handled(), counts.queued());
        }
    }
}

pub(crate) fn service_id(index: usize) -> ServiceId {
    ServiceId(u32::try_from(index).expect("a job has fewer services than 2^32"))
}

/// Counts all dead letters and keeps the newest.
#[derive(Debug)]
pub(crate) struct DeadLetterBox {
    pub(crate) total: u64,
    newest: VecDeque<DeadLetter>,
    kept_max: usize,
}

impl DeadLetterBox {
    pub(crate) fn new(kept_max: usize) -> Self {
        Self { total: 0, newest: VecDeque::new(), kept_max }
    }

    pub(crate) fn add(&mut self, count: u64, newest: Vec<DeadLetter>) {
        self.total += count;
        self.newest.extend(newest);
        let surplus = self.newest.len().saturating_sub(self.kept_max);
        self.newest.drain(..surplus);
    }

    /// Forgets them: another attempt sets them aside again.
    pub(crate) fn clear(&mut self) {
        self.total = 0;
        self.newest.clear();
    }

    pub(crate) fn letters(&self) -> DeadLetters {
        DeadLetters { total: self.total, newest: self.newest.iter().cloned().collect() }
    }
}

/// All that stays readable of a job that has ended.
#[derive(Debug)]
pub(crate) struct EndedJob {
    pub(crate) plain: PlainJob,
    /// None for a job of an earlier process, with which they went.
    pub(crate) outputs: Option<Vec<(String, Arc<OutputStore>)>>,
}

impl EndedJob {
    /// Why nothing can be said of the job's results, if so.
    pub(crate) fn lost(&self) -> Option<String> {
        match &self.plain.status.outcome {
            Some(Outcome::Lost { reason }) => Some(reason.clone()),
            _ => None,
        }
    }

    /// Answers everything but [`JobRequest::DeleteJob`], which is the business of whoever keeps the record.
    pub(crate) fn answer(&self, request: &JobRequest, holds: &Holds) -> Result<Reply, Refusal> {
        let reply = match request {
            JobRequest::Open { by } => {
                Reply::Opened(Opened::new(self.plain.status.name.clone(), holds.take(by.clone())))
            }
            JobRequest::JobStatus | JobRequest::WatchJob { .. } => Reply::Status(Box::new(self.plain.status.clone())),
            JobRequest::WaitJob => match &self.plain.status.outcome {
                Some(outcome) => Reply::Ended(outcome.clone()),
                None => return Err(Refusal::Internal("an ended job has no outcome".to_owned())),
            },
            // What has ended cannot be ended again, and that is what was asked for.
            JobRequest::Control(Control::Stop | Control::Cancel) => Reply::Done(()),
            JobRequest::Control(Control::Pause) => return Err(conflict("pause")),
            JobRequest::Control(Control::Resume) => return Err(conflict("resume")),
            JobRequest::DeleteJob { .. } => return Err(Refusal::Internal("deleted by the wrong actor".to_owned())),
            JobRequest::ExplainJob => Reply::Explanation(Explanation { state: JobState::Ended, waits: Vec::new() }),
            JobRequest::DeadLetters => Reply::DeadLetters(self.plain.dead_letters.clone()),
            JobRequest::OutputTypes => match &self.outputs {
                Some(outputs) => Reply::OutputTypes(output_types(outputs)),
                None => Reply::OutputTypes(self.plain.graph.outputs.iter().map(|name| (name.clone(), None)).collect()),
            },
            JobRequest::JobGraph => Reply::Graph(Box::new(Graph::clone(&self.plain.graph))),
        };
        Ok(reply)
    }
}

pub(crate) fn output_types(outputs: &[(String, Arc<OutputStore>)]) -> OutputTypes {
    outputs.iter().map(|(name, output)| (name.clone(), Some((**output.description()).clone()))).collect()
}

fn conflict(operation: &str) -> Refusal {
    Refusal::Conflict { operation: operation.to_owned(), state: JobState::Ended }
}

/// An ended job in the history, with the those who hold it.
pub(crate) struct Archived {
    pub(crate) job: Arc<EndedJob>,
    pub(crate) holds: Holds,
}

impl Kept for Archived {
    fn is_kept(&self) -> bool {
        self.holds.is_held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(position: u64) -> DeadLetter {
        DeadLetter { operator: "map".to_owned(), instance: 0, position, cause: "odd".to_owned() }
    }

    #[test]
    fn the_newest_dead_letters_are_kept_and_all_are_counted() {
        let mut dead = DeadLetterBox::new(2);
        dead.add(1, vec![letter(1)]);
        dead.add(7, vec![letter(7), letter(8)]);
        assert_eq!(dead.letters(), DeadLetters { total: 8, newest: vec![letter(7), letter(8)] });
    }
}
