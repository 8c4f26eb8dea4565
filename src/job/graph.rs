//! The graph of a job, as data.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    error::{BuildRefusal, check_name},
    id::{ServiceId, TaskId},
};

/// A job's graph as data: tasks, channels, services, outputs and inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Graph {
    pub(crate) tasks: Vec<TaskNode>,
    pub(crate) channels: Vec<ChannelNode>,
    pub(crate) services: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) inputs: Vec<String>,
    /// The tasks of each feedback loop.
    pub(crate) loops: Vec<Vec<TaskId>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct TaskNode {
    pub id: TaskId,
    /// The operators, joined by ` -> `.
    pub name: String,
    pub instance: u32,
    pub operators: Vec<String>,
    pub is_source: bool,
    /// The input pushed into this task from outside, if it is the head of such a chain.
    pub input: Option<String>,
    /// The outputs this task writes.
    pub outputs: Vec<String>,
    /// The pipeline service that it answers for.
    pub service: Option<ServiceId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ChannelNode {
    pub from: TaskId,
    pub to: TaskId,
    pub name: String,
}

impl Graph {
    /// How many tasks the job has.
    #[must_use]
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// How many channels connect them.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// The services' names in order of registration.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(String::as_str)
    }
}

impl Graph {
    /// # Errors
    ///
    /// A service, an output or an input has a name that is too long.
    pub(crate) fn check_names(&self) -> Result<(), BuildRefusal> {
        let names = [("a service", &self.services), ("an output", &self.outputs), ("an input", &self.inputs)];
        names.into_iter().try_for_each(|(what, names)| names.iter().try_for_each(|name| check_name(what, name)))
    }
}

impl Graph {
    /// In what `other` is not this graph, if it is not: its first task, or the kind of what differs.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        if self == other {
            return None;
        }
        let task = |task: Option<&TaskNode>| match task {
            Some(task) => format!("task `{}` [{}]", task.name, task.instance),
            None => "nothing".to_owned(),
        };
        let count = self.tasks.len().max(other.tasks.len());
        let differs = (0..count).find(|&index| self.tasks.get(index) != other.tasks.get(index));
        if let Some(index) = differs {
            let (here, there) = (self.tasks.get(index), other.tasks.get(index));
            return Some(format!("where the job has {}, it has {}", task(here), task(there)));
        }
        let parts = [
            ("channels", self.channels != other.channels),
            ("services", self.services != other.services),
            ("outputs", self.outputs != other.outputs),
            ("inputs", self.inputs != other.inputs),
        ];
        let what = parts.into_iter().find(|(_, differ)| *differ).map_or("loops", |(what, _)| what);
        Some(format!("its {what} are others"))
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for task in &self.tasks {
            writeln!(f, "{} {} [{}]", task.id, task.name, task.instance)?;
        }
        for channel in &self.channels {
            writeln!(f, "{} -> {}", channel.from, channel.to)?;
        }
        for service in &self.services {
            writeln!(f, "service {service}")?;
        }
        Ok(())
    }
}
