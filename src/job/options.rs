//! What is chosen at submit, and the limits of an environment.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Restart;

/// What happens to an item that user code could not process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorPolicy {
    /// The job fails, naming the operator and the item's position.
    #[default]
    Fail,
    /// The item is set aside as a dead letter with its cause, and the job goes on. What an aggregate has half-added
    /// cannot be taken out again, and an item that cannot be encoded for an output is a fault of its type: both fail the
    /// job all the same.
    Skip,
}

/// A name takes no more bytes than this: that of a job or of its type, of a service, an output, an input.
pub(crate) const NAME_BYTES_MAX: usize = 256;

/// What is chosen for one job at submit.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct JobOptions {
    pub autostop: bool,
    /// `None`: the environment's task threads.
    pub parallelism: Option<usize>,
    /// `None`: the name of the job's type.
    pub name: Option<String>,
    pub run_limit: Option<Duration>,
    pub error_policy: ErrorPolicy,
    pub lease: Option<Duration>,
    pub restart: Restart,
    /// Who submits it, and so is the first to hold it.
    pub by: HeldBy,
}

/// A client that holds a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldBy {
    /// The name of its environment.
    pub client: String,
    /// Where its connection comes from, as the node sees it; what a client says of that does not count.
    pub address: Option<String>,
}

/// Fewer would have each batch wait for the one before it.
const PEER_CHANNEL_BYTES_MIN: usize = 1 << 10;

/// Every limit of an environment, with its default. A 0 where something must pass counts as 1.
///
/// ```
/// use proscenium::Limits;
///
/// let limits = Limits { batch_items: 256, ..Limits::default() };
/// assert_eq!(limits.call_deadline.as_secs(), 10);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Items of a full batch. Default 1,024. A source or an operator that gives out several at once can make one larger.
    ///
    /// No item waits for a batch to fill while its task has nothing else to do: what lies ready in front of a channel is
    /// sent as soon as the task's input is empty, so under light load an item goes on alone and at once. A task that is
    /// never out of input sends full batches, and whatever lies ready each time it gives others their turn: after about a
    /// millisecond, or after what it took in one go, if that takes longer because items have suddenly become slow. So filling
    /// batches delays an item by about a millisecond for each channel it passes, and only behind a task that is busy
    /// without a pause.
    ///
    /// Fewer items make latencies near full load shorter, for there is less in front of each item, and cost throughput;
    /// under lighter load they change next to nothing. The figures are in `benches/README.md`.
    pub batch_items: usize,
    /// Batches a channel between two tasks holds at most. Default 8.
    pub channel_batches: usize,
    /// Bytes a channel between two tasks holds at most, counted as the items' own size or as `weigh` says; one batch
    /// that alone is larger is admitted alone. Default 1 MiB.
    pub channel_bytes: usize,
    /// Encoded bytes that a channel between tasks on two workers may have on its way at most, from where they are sent to where
    /// they are worked off; and one batch of about 64 KiB, or one item that alone is larger. Default 256 KiB, at least 1 KiB.
    ///
    /// Over a long line a channel carries no more than that in each round trip. The channels into one task have 2 MiB
    /// together, so each of very many has less, but no less than 32 KiB for that reason.
    pub peer_channel_bytes: usize,
    /// Messages that wait in front of a service at most; then callers wait. Default 4,096.
    pub service_queue: usize,
    /// The deadline of a call to a service that names none. Default 10 s.
    pub call_deadline: Duration,
    /// Failures of one service within `restart_window` that are answered by a restart. Default 3.
    pub restarts_max: u32,
    /// The window of `restarts_max`. Default 10 s.
    pub restart_window: Duration,
    /// How long a service may take to answer what it accepted and to stop. Default 10 s.
    pub service_stop_deadline: Duration,
    /// How long tasks may take to return after `cancel` or a failure, before they are abandoned. Default 5 s.
    pub cancel_deadline: Duration,
    /// Ended jobs that stay readable. Default 1,000.
    pub ended_jobs_max: usize,
    /// How long ended jobs stay readable. Default 7 days.
    pub ended_jobs_age: Duration,
    /// Dead letters kept with their cause, for each job. Default 1,000.
    pub dead_letters_max: usize,
    /// Bytes of one collected output held in memory before it spills to disk. Default 64 MiB.
    pub output_memory_bytes: usize,
    /// Encoded bytes of one collected output; beyond them the job fails. Default 16 GiB.
    ///
    /// Where items consist of numbers, texts, options, tuples and structs of such, a number takes its full width (a `u64`
    /// 8 bytes, whatever its value) and a text 4 bytes and its own. In other types small numbers take fewer bytes.
    pub output_bytes_max: u64,
    /// Items that wait to go round at one instance of a feedback loop; beyond them the job fails. Default 1,048,576.
    pub loop_items_max: usize,
    /// How long feedback loops may take to go quiet after `stop`, before they are cut. Default 10 s.
    pub loop_drain_deadline: Duration,
    /// How long a job waits for a worker where the environment has workers in other processes and none is there, before it is
    /// refused. Default 60 s.
    pub slots_deadline: Duration,
    /// Items that wait in an output of `stream_out` or in an input of `from_channel`. Default 16,384.
    pub port_items: usize,
    /// Encoded bytes by which one input of an instance of `zip` may be ahead of the other; beyond them the job fails. In
    /// memory up to `output_memory_bytes`, then on disk. Default 16 GiB.
    pub zip_bytes_max: u64,
}

impl Limits {
    /// With 1 in place of each 0 that would let nothing pass.
    pub(crate) fn normalised(mut self) -> Self {
        for count in [&mut self.batch_items, &mut self.channel_batches, &mut self.service_queue, &mut self.port_items] {
            *count = (*count).max(1);
        }
        self.peer_channel_bytes = self.peer_channel_bytes.max(PEER_CHANNEL_BYTES_MIN);
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_items: 1024,
            channel_batches: 8,
            channel_bytes: 1 << 20,
            peer_channel_bytes: 256 << 10,
            service_queue: 4096,
            call_deadline: Duration::from_secs(10),
            restarts_max: 3,
            restart_window: Duration::from_secs(10),
            service_stop_deadline: Duration::from_secs(10),
            cancel_deadline: Duration::from_secs(5),
            ended_jobs_max: 1000,
            ended_jobs_age: Duration::from_secs(7 * 24 * 60 * 60),
            dead_letters_max: 1000,
            output_memory_bytes: 64 << 20,
            output_bytes_max: 16 << 30,
            loop_items_max: 1 << 20,
            loop_drain_deadline: Duration::from_secs(10),
            slots_deadline: Duration::from_secs(60),
            port_items: 16_384,
            zip_bytes_max: 16 << 30,
        }
    }
}
