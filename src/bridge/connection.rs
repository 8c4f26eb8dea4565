//! One connection at work: reads frames, writes what is queued, and keeps an eye on whether the peer is alive.
//!
//! It works over any `AsyncRead + AsyncWrite`, on any executor, and knows neither side's messages.

use std::{
    cell::Cell,
    fmt,
    future::pending,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::{Either, poll_fn, select};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::{
    frame::{Decoder, FrameError, FrameLimits, Kind, Lane, Message},
    message::Goodbye,
    outbound::Outbound,
};
use crate::{codec, host::Host};

/// How long a side that closes the connection waits for the other one to do the same. A socket that is closed with
/// bytes unread is reset, and the peer might lose the words of farewell.
const LINGER: Duration = Duration::from_secs(1);

/// While more than this is on the way to a peer, its pings are not answered: it hears from this side in any case, and one
/// that does not listen cannot have answers piled up.
const UNHEARD_MAX: usize = 8 << 20;

/// When to ask a silent peer whether it is there, and when to give it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    /// A ping goes out so often.
    pub interval: Duration,
    /// A peer that sent nothing for so long is given up.
    pub timeout: Duration,
}

/// Takes the messages of a connection, in the order in which they came.
pub(super) trait Handler {
    /// # Errors
    ///
    /// The message breaks a rule of the protocol, and the connection is closed.
    fn handle(&mut self, message: &Message<'_>) -> Result<(), Violation>;

    /// Whether the next message may be handled, as far as the answers to those before it are concerned.
    fn has_room(&self) -> bool {
        true
    }

    /// The peer has answered the ping of this number.
    fn ponged(&mut self, _ping: u64) {}

    /// Bytes that may be on the way to the peer for its pings to be answered.
    fn unheard_max(&self) -> usize {
        UNHEARD_MAX
    }

    /// Called when all that was read is handled, and when there is no room: ready when to go on.
    fn ready(&mut self) -> impl Future<Output = ()> {
        std::future::ready(())
    }
}

/// A rule of the protocol that the peer broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation(pub String);

impl Violation {
    pub(super) fn new(what: impl fmt::Display) -> Self {
        Self(what.to_string())
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum End {
    #[error("this side closed the connection")]
    Finished,
    #[error("{}", farewell(.0))]
    Goodbye(Goodbye),
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer was silent for {} s", .0.as_secs_f64())]
    Silent(Duration),
    #[error("{0}")]
    Io(String),
    #[error("the peer broke the protocol: {0}")]
    Violation(String),
}

fn farewell(goodbye: &Goodbye) -> String {
    match goodbye {
        Goodbye::Closed => "the client closed its environment".to_owned(),
        Goodbye::NodeStopped => "the node was stopped".to_owned(),
        Goodbye::Replaced => "a newer connection of the same client took over".to_owned(),
        Goodbye::KeyRevoked => "the client's key was revoked".to_owned(),
        Goodbye::TurnedAway(why) => format!("the node has no room for the connection: {why}"),
        Goodbye::Violation(what) => format!("the peer says that this side broke the protocol: {what}"),
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        Self::Violation(error.to_string())
    }
}

/// Says goodbye: what was queued before is still sent, and the connection then ends.
pub(super) fn say_goodbye(outbound: &Outbound, goodbye: &Goodbye) {
    let mut payload = Vec::new();
    codec::encode_into(goodbye, &mut payload).expect("a goodbye is short and plain");
    outbound.finish(Kind::Goodbye, Lane::Control, 0, &[&payload]);
}

/// Runs the connection to its end. Nothing is sent afterwards.
pub(super) async fn run<R: AsyncRead + Unpin>(
    mut reader: R,
    outbound: &Arc<Outbound>,
    limits: FrameLimits,
    heartbeat: Heartbeat,
    host: &Host,
    handler: &mut impl Handler,
) -> End {
    let hearing = Hearing { last: Cell::new(host.now()), held: Cell::new(false) };
    let end = {
        let read =
            pin!(read(&mut reader, outbound, Decoder::new(limits, outbound.integrity()), handler, (&hearing, host)));
        let write = pin!(poll_fn(|cx| outbound.poll_write(cx)));
        let watch = pin!(watch(outbound, heartbeat, host, &hearing));
        match select(select(read, write), watch).await {
            Either::Left((Either::Left((end, _)), _)) => end,
            Either::Left((Either::Right((Ok(()), _)), _)) => End::Finished,
            Either::Left((Either::Right((Err(error), _)), _)) => error.into(),
            Either::Right((end, _)) => end,
        }
    };
    match &end {
        End::Violation(what) => {
            part(&mut reader, outbound, host, &Goodbye::Violation(what.clone())).await;
        }
        End::Finished => {
            let _ = host.timeout(LINGER, drain(&mut reader)).await;
        }
        _ => {}
    }
    outbound.abandon();
    end
}

/// Ends a connection that is not to be run, and lets the peer read why.
pub(super) async fn turn_away<R: AsyncRead + Unpin>(mut reader: R, outbound: &Outbound, host: &Host, why: &Goodbye) {
    part(&mut reader, outbound, host, why).await;
    outbound.abandon();
}

/// Says goodbye, and waits for the peer to have read it, but not for long.
async fn part<R: AsyncRead + Unpin>(reader: &mut R, outbound: &Outbound, host: &Host, goodbye: &Goodbye) {
    say_goodbye(outbound, goodbye);
    let farewell = async {
        // An error says that there is nobody to tell.
        let _ = poll_fn(|cx| outbound.poll_write(cx)).await;
        drain(reader).await;
    };
    let _ = host.timeout(LINGER, farewell).await;
}

async fn read<R: AsyncRead + Unpin>(
    reader: &mut R,
    outbound: &Outbound,
    mut decoder: Decoder,
    handler: &mut impl Handler,
    (hearing, host): (&Hearing, &Host),
) -> End {
    loop {
        loop {
            if !handler.has_room() {
                hearing.held.set(true);
                handler.ready().await;
                hearing.held.set(false);
            }
            let message = match decoder.next() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => return error.into(),
            };
            let handled = match message.kind {
                Kind::Ping if outbound.backlog() > handler.unheard_max() => Ok(()),
                Kind::Ping => {
                    outbound.push(Kind::Pong, Lane::Control, message.id, &[]);
                    Ok(())
                }
                Kind::Pong => {
                    handler.ponged(message.id);
                    Ok(())
                }
                Kind::Goodbye => match codec::decode::<Goodbye>(message.payload) {
                    Ok(goodbye) => return End::Goodbye(goodbye),
                    Err(error) => Err(Violation::new(error)),
                },
                _ => handler.handle(&message),
            };
            if let Err(Violation(what)) = handled {
                return End::Violation(what);
            }
        }
        hearing.held.set(true);
        handler.ready().await;
        hearing.held.set(false);
        match poll_fn(|cx| poll_fill(reader, &mut decoder, cx)).await {
            Ok(0) => return End::Closed,
            Ok(_) => hearing.last.set(host.now()),
            Err(error) => return error.into(),
        }
    }
}

fn poll_fill<R: AsyncRead + Unpin>(
    reader: &mut R,
    decoder: &mut Decoder,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut room = ReadBuf::new(decoder.room());
    let read = Pin::new(reader).poll_read(cx, &mut room);
    let count = room.filled().len();
    read.map_ok(|()| {
        decoder.filled(count);
        count
    })
}

/// What is known of whether the peer is there.
struct Hearing {
    last: Cell<Instant>,
    /// It is not listened to, because of what it has to read or to wait for. That it takes what is written says then that
    /// it is there.
    held: Cell<bool>,
}

/// Ready when the peer was silent for too long.
async fn watch(outbound: &Outbound, heartbeat: Heartbeat, host: &Host, hearing: &Hearing) -> End {
    let (mut last, mut written) = (host.now(), outbound.written());
    loop {
        host.sleep(heartbeat.interval).await;
        if host.is_closed() {
            // The host is closed. A sleep would take no time from here on, and the connection is being ended.
            pending::<()>().await;
        }
        let now = host.now();
        let before = std::mem::replace(&mut written, outbound.written());
        if hearing.held.get() && written != before {
            hearing.last.set(now);
        }
        // This process was itself stopped for a while: what the peer sent meanwhile has yet to be read.
        if now - last >= heartbeat.interval + heartbeat.timeout / 2 {
            hearing.last.set(now);
        }
        last = now;
        let silent = now - hearing.last.get();
        if silent >= heartbeat.timeout {
            return End::Silent(silent);
        }
        outbound.push(Kind::Ping, Lane::Control, 0, &[]);
    }
}

async fn drain<R: AsyncRead + Unpin>(reader: &mut R) {
    let mut bytes = [0; 4096];
    while reader.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
}

#[cfg(test)]
mod tests;
