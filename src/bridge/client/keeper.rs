//! Keeps a client connected: dials, shows that it knows the key, runs the connection, and begins again when it is lost.

use std::{cell::Cell, future::pending, sync::Arc, time::Duration};

use futures::future::{Either, select};
use tokio::sync::oneshot;

use super::{
    fault::ConnectFault,
    state::{Heard, Shared, Trouble},
};
use crate::{
    bridge::{
        backoff::Backoff,
        connection::{self, End, Handler, Heartbeat, Violation, say_goodbye},
        encryption::ClientEncryption,
        frame::{FrameLimits, Kind, Message},
        handshake::{ClientSide, Established, Peer},
        key::Key,
        message::{FromNode, Goodbye},
        outbound::Outbound,
        stream::{Dial, DialErrorKind},
    },
    codec,
    host::Host,
    service::CallError,
};

/// How long a client that closes waits for its last frames to be written.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

pub(super) struct Keeper {
    pub dial: Arc<dyn Dial>,
    pub key: Key,
    pub encryption: ClientEncryption,
    pub heartbeat: Heartbeat,
    pub connect_limit: Duration,
    pub reconnect_limit: Duration,
    pub shared: Arc<Shared>,
    pub host: Host,
}

impl Keeper {
    /// Runs until the client is closed. `opened` hears of the first connection.
    pub(super) async fn run(self, opened: oneshot::Sender<Result<(), ConnectFault>>) {
        let mut opened = Some(opened);
        let mut down_since = self.host.now();
        let mut backoff = Backoff::new();
        // The node said so over the connection that it had proven itself on.
        let mut is_revoked = false;
        while !self.shared.is_closed() {
            let trouble = match self.attempt(&mut opened).await {
                Attempt::Lasted(end) => {
                    tracing::info!(node = self.dial.place(), %end, "the connection to the node ended");
                    is_revoked = end == End::Goodbye(Goodbye::KeyRevoked);
                    down_since = self.host.now();
                    backoff = Backoff::new();
                    Trouble { message: format!("{}: {end}", self.dial.place()), gone: false }
                }
                Attempt::Failed(fault) => {
                    if let Some(opened) = opened.take() {
                        // Whoever asked for the connection may have gone.
                        let _ = opened.send(Err(fault));
                        break;
                    }
                    tracing::debug!(node = self.dial.place(), %fault, "no connection to the node");
                    if is_revoked && matches!(&fault, ConnectFault::Hello(error) if error.says_key_unknown()) {
                        self.shared.revoked(&self.revocation());
                        self.shared.closing().await;
                        break;
                    }
                    let gone =
                        matches!(&fault, ConnectFault::Dial(error) if error.kind == DialErrorKind::NobodyListens);
                    let trouble = Trouble { message: format!("{}: {fault}", self.dial.place()), gone };
                    // Whatever else it is, it may pass: what answers may be a load balancer without a node behind it, or a
                    // node that is being replaced by another with this client's key or version.
                    trouble
                }
                Attempt::Closed => break,
            };
            if self.host.since(down_since) >= self.reconnect_limit {
                self.shared.give_up(&trouble);
            }
            let wait = backoff.next(&self.host);
            // Ready in time only if the client is closed meanwhile.
            if self.host.timeout(wait, self.shared.closing()).await.is_ok() {
                break;
            }
        }
        self.shared.close();
    }

    fn revocation(&self) -> String {
        match self.key.name() {
            Some(name) => format!("the key `{name}` was revoked"),
            None => "the key was revoked".to_owned(),
        }
    }

    async fn attempt(&self, opened: &mut Option<oneshot::Sender<Result<(), ConnectFault>>>) -> Attempt {
        let begun = self.host.now();
        let connect = std::pin::pin!(self.host.timeout(self.connect_limit, self.connect()));
        let closing = std::pin::pin!(self.shared.closing());
        let Established { peer, stream, integrity } = match select(connect, closing).await {
            Either::Right(_) => return Attempt::Closed,
            Either::Left((Err(_), _)) => return Attempt::Failed(ConnectFault::TimedOut(self.connect_limit)),
            Either::Left((Ok(Err(fault)), _)) => return Attempt::Failed(fault),
            Either::Left((Ok(Ok(connected)), _)) => connected,
        };
        let (reader, writer) = stream.halves();
        let outbound = Outbound::new(writer, integrity);
        let welcomed = Cell::new(false);
        let mut handler =
            Listener { keeper: self, outbound: &outbound, incarnation: peer.who, opened, welcomed: &welcomed };
        let limits = FrameLimits::default();
        let running = connection::run(reader, &outbound, limits, self.heartbeat, &self.host, &mut handler);
        let mut running = std::pin::pin!(running);
        let closing = std::pin::pin!(self.shared.closing());
        // A node may know the key, give signs of life, and yet not serve.
        let unwelcome = std::pin::pin!(async {
            let left = self.connect_limit.saturating_sub(self.host.since(begun));
            self.host.sleep(left).await;
            if welcomed.get() {
                pending::<()>().await;
            }
        });
        let end = match select(running.as_mut(), select(closing, unwelcome)).await {
            Either::Left((end, _)) => end,
            Either::Right((Either::Left(_), _)) => {
                say_goodbye(&outbound, &Goodbye::Closed);
                // It ends in any case; how, is of no interest any more.
                let _ = self.host.timeout(FAREWELL_LIMIT, running).await;
                outbound.abandon();
                return Attempt::Closed;
            }
            Either::Right((Either::Right(_), _)) => {
                outbound.abandon();
                return Attempt::Failed(ConnectFault::TimedOut(self.connect_limit));
            }
        };
        self.shared.disconnected();
        if welcomed.get() { Attempt::Lasted(end) } else { Attempt::Failed(ConnectFault::NotWelcomed(end)) }
    }

    async fn connect(&self) -> Result<Established<Peer>, ConnectFault> {
        let dialled = self.dial.dial().await.map_err(ConnectFault::Dial)?;
        let side =
            ClientSide { key: &self.key, client: self.shared.client, encryption: &self.encryption, host: &self.host };
        side.connect(dialled).await.map_err(ConnectFault::Hello)
    }
}

enum Attempt {
    Failed(ConnectFault),
    Lasted(End),
    /// The client was closed meanwhile.
    Closed,
}

/// Passes on what the node says.
struct Listener<'a> {
    keeper: &'a Keeper,
    outbound: &'a Arc<Outbound>,
    incarnation: u128,
    opened: &'a mut Option<oneshot::Sender<Result<(), ConnectFault>>>,
    welcomed: &'a Cell<bool>,
}

impl Handler for Listener<'_> {
    fn handle(&mut self, message: &Message<'_>) -> Result<(), Violation> {
        let shared = &self.keeper.shared;
        match message.kind {
            Kind::Message => self.hear(message),
            Kind::Answer | Kind::Failure => {
                // A call that was withdrawn is not there any more.
                let Some(call) = shared.calls.lock().remove(&message.id) else { return Ok(()) };
                let answer = if message.kind == Kind::Answer {
                    Ok(message.payload.to_vec())
                } else {
                    Err(codec::decode::<CallError>(message.payload).map_err(Violation::new)?)
                };
                // Nor is a caller that has gone.
                let _ = call.reply.send(answer);
                Ok(())
            }
            _ => shared.exchange(message.id).map_or(Ok(()), |exchange| exchange.receive(message)),
        }
    }
}

impl Listener<'_> {
    fn hear(&mut self, message: &Message<'_>) -> Result<(), Violation> {
        let said = codec::decode::<FromNode>(message.payload).map_err(Violation::new)?;
        let shared = &self.keeper.shared;
        if let FromNode::Welcome { environment, call_deadline } = said {
            tracing::info!(node = self.keeper.dial.place(), environment, "connected");
            shared.connected(self.outbound, self.incarnation, call_deadline);
            self.welcomed.set(true);
            if let Some(opened) = self.opened.take() {
                // Whoever asked for the connection may have gone.
                let _ = opened.send(Ok(()));
            }
            return Ok(());
        }
        // One that was given up meanwhile is not there any more.
        let Some(exchange) = shared.exchange(message.id) else { return Ok(()) };
        if exchange.hear(said)? == Heard::Over {
            shared.end(message.id);
        }
        Ok(())
    }
}
