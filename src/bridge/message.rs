//! What a client and a node say to one another once each has authenticated the other: all but the five kinds of frame
//! that carry a user's bytes, which have a layout of their own in [`frame`](super::frame).
//!
//! A message belongs to the exchange that its frame's correlation id names. Ids are drawn by the client, and none is
//! used twice on one connection.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    connection::Violation,
    worker::message::{FromWorker, ToWorker},
};

use crate::{
    job::{EncodedJob, JobId, JobOptions},
    link::{KeyRole, NodeStop, Refusal, Reply, Request},
    port::{InputError, OutputError},
    schema::{Fingerprint, TypeDescription},
    service::CallError,
};

/// What a client says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum FromClient {
    /// Answered by `Reply`.
    Ask(Request),
    /// Answered by `Reply`. To say it again with the same id and job changes nothing.
    Submit {
        id: JobId,
        options: JobOptions,
        job: EncodedJob,
    },
    /// Answered by `Reply` once the node has taken the order; it closes its connections when all jobs have ended.
    StopNode(NodeStop),
    /// The reply to this request is not waited for any more; or the handle that came of it is gone.
    Forget,
    /// Answered by `RouteOpened`. The correlation id is the route's from now on.
    OpenRoute(OpenRoute),
    CloseRoute,
    /// The call's answer is not waited for any more: skip it, if it was not taken up yet.
    Withdraw,
    /// Answered by `OutputOpened`, then chunks as the window allows, then `OutputEnded`.
    OpenOutput {
        job: JobId,
        output: String,
        item_type: Fingerprint,
        from: u64,
    },
    /// Items before `consumed` were handed out: so much more of the window is free.
    OutputCredit {
        consumed: u64,
    },
    /// Items before `consumed` were handed out, which may be inside a chunk.
    CloseOutput {
        consumed: u64,
    },
    /// Answered by `InputOpened`.
    OpenInput {
        job: JobId,
        input: String,
        item_type: Fingerprint,
        writer: u128,
    },
    /// Answered by `InputFinished`; behind the items, on their lane.
    FinishInput,
    /// The writer is done and will not come back.
    CloseInput,
    /// Answered by `Reply`, as are those that follow.
    ListKeys,
    /// The client made the secret, so that to say it again changes nothing.
    AddKey {
        name: String,
        role: KeyRole,
        secret: Vec<u8>,
    },
    RevokeKey {
        name: String,
    },
    /// By the holder of a worker's key, who says nothing else.
    Worker(FromWorker),
}

/// A route for messages of one kind to one service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OpenRoute {
    pub job: JobId,
    pub service: String,
    /// The type that the client takes the service for.
    pub actor: String,
    pub message: String,
    pub message_type: Fingerprint,
    pub reply_type: Fingerprint,
}

/// What a node says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum FromNode {
    /// The first message of every connection.
    Welcome {
        environment: String,
        call_deadline: Duration,
    },
    Reply(Result<Reply, Refusal>),
    RouteOpened(Result<(), RouteFault>),
    /// Messages of this cost have left the way for the service's queue.
    RouteCredit {
        cost: u64,
    },
    /// A told message was not taken.
    RouteRefused(CallError),
    /// The items are to be handed out from this position on; the first chunk may begin before it.
    OutputOpened(Result<u64, OutputFault>),
    OutputEnded(Result<(), OutputError>),
    /// The job has all items of this writer before `next`.
    InputOpened(Result<u64, InputFault>),
    InputTaken {
        next: u64,
    },
    /// Of what was sent, the items before `next` were taken, and no others will be.
    InputRefused {
        next: u64,
        error: InputError,
    },
    InputFinished(Result<(), InputError>),
    /// To a worker.
    Worker(ToWorker),
}

/// Why a route was not opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum RouteFault {
    Refused(CallError),
    /// The message is of another type on the node, which is this.
    MessageDiffers(Box<TypeDescription>),
    ReplyDiffers(Box<TypeDescription>),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum OutputFault {
    Refused(OutputError),
    /// The items are of this type.
    TypeDiffers(Box<TypeDescription>),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum InputFault {
    Refused(InputError),
    /// The items are of this type.
    TypeDiffers(Box<TypeDescription>),
}

/// Why one side closes a connection; the payload of its last frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Goodbye {
    /// The client has closed its environment.
    Closed,
    /// The node has been stopped, and all of its jobs have ended.
    NodeStopped,
    /// The same client has opened a newer connection.
    Replaced,
    /// The peer broke a rule of the protocol.
    Violation(String),
    /// The client's key was revoked.
    KeyRevoked,
    /// There are too many connections; in words.
    TurnedAway(String),
}

/// What a message costs of a route's window: its bytes, and something for being a message.
pub(super) fn cost_of(bytes: usize) -> usize {
    (bytes + MESSAGE_OVERHEAD).min(ROUTE_WINDOW)
}

const MESSAGE_OVERHEAD: usize = 64;

/// Cost of the told messages that may be on the way to one service from one route. One that alone costs more is
/// admitted alone.
pub(super) const ROUTE_WINDOW: usize = 1 << 20;

/// What a batch of items costs of an input's window: its bytes, and something for being a batch.
pub(super) fn batch_cost(bytes: usize) -> usize {
    bytes + MESSAGE_OVERHEAD
}

/// Bytes of chunks that a node sends ahead of what the reader has consumed, for each output. A chunk that is larger is sent
/// alone.
pub(super) const OUTPUT_WINDOW: u64 = 4 << 20;

/// Cost of the batches that a writer may have sent and the job not taken, for each writer. A batch that costs more is sent
/// alone.
pub(super) const INPUT_WINDOW: usize = 1 << 20;

/// Calls of one connection that may wait for their answer; further ones wait on the client's side.
pub(super) const CALLS_MAX: usize = 16_384;

/// Questions of one connection that may wait for their answer, each waiting `wait` included; further ones wait on the
/// client's side.
pub(super) const REQUESTS_MAX: usize = 16_384;

/// Routes, outputs and inputs that one connection may have open, of each.
pub(super) const STREAMS_MAX: usize = 65_536;

/// The head of a chunk or of a batch of items: the position of the first item, and how many there are.
pub(super) fn head_of(first: u64, items: u64) -> [u8; 16] {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&first.to_le_bytes());
    head[8..].copy_from_slice(&items.to_le_bytes());
    head
}

/// Reads such a head; what follows it are the items.
pub(super) fn run_head(payload: &[u8]) -> Result<(u64, u64, &[u8]), Violation> {
    let Some((first, rest)) = payload.split_first_chunk::<8>() else {
        return Err(Violation::new("a run without head"));
    };
    let Some((items, bytes)) = rest.split_first_chunk::<8>() else { return Err(Violation::new("a run without head")) };
    Ok((u64::from_le_bytes(*first), u64::from_le_bytes(*items), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn bytes(message: &impl Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::encode_into(message, &mut bytes).expect("it can be encoded");
        bytes
    }

    #[test]
    fn the_bytes_of_messages_do_not_change() {
        let job: JobId = "job-00000000000000000000000000000007".parse().expect("it is one");
        let text = |text: &str| [&[u8::try_from(text.len()).expect("it is short")], text.as_bytes()].concat();
        let asks = [
            (FromClient::Ask(Request::Health), vec![0, 2]),
            (FromClient::StopNode(NodeStop::Cancel), vec![2, 1]),
            (FromClient::Forget, vec![3]),
            (FromClient::CloseRoute, vec![5]),
            (FromClient::Withdraw, vec![6]),
            (FromClient::OutputCredit { consumed: 300 }, vec![8, 251, 44, 1]),
            (FromClient::CloseOutput { consumed: 5 }, vec![9, 5]),
            (FromClient::FinishInput, vec![11]),
            (FromClient::CloseInput, vec![12]),
            (FromClient::ListKeys, vec![13]),
            (
                FromClient::AddKey { name: "n".to_owned(), role: KeyRole::Submitter, secret: vec![9] },
                vec![14, 1, b'n', 2, 1, 9],
            ),
            (FromClient::RevokeKey { name: "n".to_owned() }, vec![15, 1, b'n']),
            (FromClient::Worker(FromWorker::Connected(Ok(()))), vec![16, 2, 0]),
        ];
        for (message, expected) in asks {
            assert_eq!(bytes(&message), expected, "{message:?}");
        }
        let item_type = crate::schema::TypeDescription::of::<u64>().fingerprint();
        let open = FromClient::OpenInput { job, input: "in".to_owned(), item_type, writer: 9 };
        let expected = [&[10, 7], &text("in")[..], &bytes(&item_type), &[9]].concat();
        assert_eq!(bytes(&open), expected);
        let says = [
            (
                FromNode::Welcome { environment: "n".to_owned(), call_deadline: Duration::from_secs(10) },
                vec![0, 1, b'n', 10, 0],
            ),
            (FromNode::Reply(Ok(Reply::Done(()))), vec![1, 0, 0]),
            (FromNode::Reply(Err(Refusal::NoSuchJob { id: job })), vec![1, 1, 0, 7]),
            (FromNode::RouteOpened(Ok(())), vec![2, 0]),
            (FromNode::RouteCredit { cost: 64 }, vec![3, 64]),
            (FromNode::RouteRefused(CallError::JobEnded { job }), vec![4, 8, 7]),
            (FromNode::OutputOpened(Ok(3)), vec![5, 0, 3]),
            (FromNode::OutputEnded(Ok(())), vec![6, 0]),
            (FromNode::InputOpened(Ok(3)), vec![7, 0, 3]),
            (FromNode::InputTaken { next: 3 }, vec![8, 3]),
            (FromNode::InputRefused { next: 3, error: InputError::EnvironmentClosed }, vec![9, 3, 10]),
            (FromNode::InputFinished(Ok(())), vec![10, 0]),
            (FromNode::Worker(ToWorker::Progress(job)), vec![11, 4, 7]),
        ];
        for (message, expected) in says {
            assert_eq!(bytes(&message), expected, "{message:?}");
        }
        assert_eq!(bytes(&Goodbye::Violation("no".to_owned())), [3, 2, b'n', b'o']);
    }

    #[test]
    fn the_head_of_a_run_is_read_as_it_was_written() {
        let payload = [&head_of(3, 4)[..], b"items"].concat();
        assert_eq!(payload[..16], [3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(run_head(&payload), Ok((3, 4, &b"items"[..])));
        assert!(run_head(&payload[..15]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_or_read(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = codec::decode::<FromClient>(&bytes);
            let _ = codec::decode::<FromNode>(&bytes);
            let _ = codec::decode::<Goodbye>(&bytes);
        }
    }
}
