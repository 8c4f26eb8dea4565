//! What a worker and its JobManager say to each other.
//!
//! All of it goes in the lane of calls, so that it keeps its order, and signs of life overtake what is large. What asks for an
//! answer has a number of its own, the correlation id of its frame, under which the answer comes; other messages have 0.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    bridge::{
        frame::{CONTROL_BYTES_MAX, FrameLimits, Kind, Lane},
        outbound::Outbound,
    },
    codec,
    flow::splits::Splits,
    job::{EncodedJob, ErrorPolicy, JobId, Limits, Term},
    link::{Connect, Place, Prepared, Refusal, Unconnected, Unprepared, WorkerFacts, WorkerId},
    protocol::{Order, Progress, WorkerEvent},
};

/// A message at most: the parameters of a job, and what goes with them.
pub(in crate::bridge) const MESSAGE_BYTES_MAX: usize = CONTROL_BYTES_MAX;

/// What a worker says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::bridge) enum FromWorker {
    /// The first message. Answered by `Registered` or `Refused`.
    Register(WorkerFacts),
    Prepared(Result<Prepared, Unprepared>),
    Connected(Result<(), Unconnected>),
    Progressed(Progress),
    Event(WorkerEvent),
    /// It wants to leave: no further jobs. Answered by `Dismissed`, once those have ended that it has.
    Drain,
}

/// What a worker is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::bridge) enum ToWorker {
    /// It is a worker of the environment from now on, for so long after each ping that is answered.
    Registered {
        worker: WorkerId,
        lease: Duration,
    },
    Refused(Refusal),
    /// Answered by `Prepared`.
    Prepare(Box<EncodedPrepare>),
    /// Answered by `Connected`.
    Connect(Connect),
    /// Answered by `Progressed`.
    Progress(JobId),
    Order(Order),
    /// The environment is closed: drop all jobs, and go.
    Close,
    /// It has no job any more and gets none: it is to go, for good.
    Dismissed,
}

/// A [`Prepare`](crate::link::Prepare) on its way to another process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::bridge) struct EncodedPrepare {
    pub job: JobId,
    pub term: Term,
    pub payload: EncodedJob,
    pub parallelism: usize,
    pub error_policy: ErrorPolicy,
    pub limits: Limits,
    pub place: Place,
    pub splits: Option<Splits>,
}

/// Those of connections between a worker and its JobManager, where jobs and graphs go in the lane of calls.
pub(in crate::bridge) fn frame_limits() -> FrameLimits {
    FrameLimits { call_bytes_max: MESSAGE_BYTES_MAX, ..FrameLimits::default() }
}

/// None if the message is larger than the other side takes.
pub(in crate::bridge) fn encoded(message: &impl Serialize) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    codec::encode_into(message, &mut payload).ok()?;
    (payload.len() <= MESSAGE_BYTES_MAX).then_some(payload)
}

/// Has an encoded message sent, behind those before it.
pub(in crate::bridge) fn send(outbound: &Outbound, id: u64, payload: &[u8]) {
    outbound.push(Kind::Message, Lane::Calls, id, &[payload]);
}
