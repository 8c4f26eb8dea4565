//! What the rules have to know of a job before it begins.

use std::time::Duration;

use crate::job::{Restart, ServiceId, TaskId};

/// All that the rules need to know of a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Setup {
    /// In the order of the graph: the position is the [`TaskId`].
    pub tasks: Vec<TaskSetup>,
    /// In the order of the graph, which is also the order in which tasks account for their ends of them.
    pub channels: Vec<ChannelSetup>,
    /// Names, in order of registration: the position is the [`ServiceId`].
    pub services: Vec<String>,
    /// The tasks of each feedback loop; no task is in two.
    pub loops: Vec<Vec<TaskId>>,
    pub autostop: bool,
    /// Whether a [`Deadline::RunLimit`](super::Deadline::RunLimit) is to be armed.
    pub run_limit: bool,
    /// Failures of one service within `restart_window` that are answered by a restart.
    pub restarts_max: u32,
    pub restart_window: Duration,
    /// Whether and how often the job begins anew.
    pub restart: Restart,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TaskSetup {
    pub name: String,
    pub operators: Vec<String>,
    /// The pipeline service that it answers for. Such a task is not significant: the job does not wait for it, but ends it.
    /// No channel joins it to one that is.
    pub service: Option<ServiceId>,
}

impl TaskSetup {
    pub(super) fn is_significant(&self) -> bool {
        self.service.is_none()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ChannelSetup {
    pub from: TaskId,
    pub to: TaskId,
    pub name: String,
}
