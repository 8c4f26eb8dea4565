//! The node's end of the bridge: who is connected, and what is done for them.
//!
//! Each connection lives on one of the node's I/O threads (`threads`), from its first byte to its last; who is connected
//! is known to all of them. What a client asks is passed on to the JobManager over the same link that a local environment
//! uses; messages to services, and items, go straight to the gates and ports of the job.

mod access;
mod ends;
mod input;
mod keys;
mod output;
mod pending;
mod say;
mod service;
mod session;
mod state;
mod tally;
mod threads;
mod worker;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::future::{BoxFuture, Either, select};
use tokio::sync::{Notify, oneshot, watch};

use self::{
    access::Access,
    session::Session,
    state::{SessionEntry, State},
    tally::{Tally, connections_max_of},
    worker::WorkerSession,
};
pub(crate) use self::{
    state::{AdmittedWorkers, Server, ServerConfig},
    threads::IoThreads,
};
use super::{
    connection::{say_goodbye, turn_away},
    handshake::{Established, NodeSide, Peer},
    hello::HelloError,
    key::KeyId,
    keyring::Identity,
    message::Goodbye,
    outbound::Outbound,
    strangers::{let_read, random},
    stream::Dialled,
};
use crate::{host::Host, link::KeyRole, port::ClientId};

/// How long connections may take to be closed when the node ends.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

impl Server {
    /// Takes up a stream, once it has arrived; the peer has proven nothing yet. `arrival` is awaited on an I/O thread.
    /// `from` is where the peer is, if that is not this process.
    pub(crate) fn welcome(self: &Arc<Self>, from: Option<IpAddr>, arrival: BoxFuture<'static, io::Result<Dialled>>) {
        let (stays, dismissed) = oneshot::channel();
        let number = {
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            match from {
                Some(address) => Ok(state.strangers.add(address, stays, || random(self.host()))),
                // The process itself is no stranger.
                None => Err(stays),
            }
        };
        let server = Arc::clone(self);
        self.desks.seat().run(move || server.serve(number, arrival, dismissed));
    }

    /// Serves one connection from its first byte to its last.
    async fn serve(
        self: Arc<Self>,
        number: Result<u64, oneshot::Sender<()>>,
        arrival: BoxFuture<'static, io::Result<Dialled>>,
        dismissed: oneshot::Receiver<()>,
    ) {
        let met = match select(pin!(self.meet(arrival)), dismissed).await {
            Either::Left((met, _)) => met,
            Either::Right(_) => return,
        };
        if let Ok(number) = number {
            self.state.lock().strangers.remove(number);
        }
        if let Some((established, from)) = met {
            // A place of its own, so that a stranger takes no room for what it may never come to.
            Box::pin(self.talk(established, from)).await;
        }
    }

    /// Makes sure of a peer. None if it has not proven that it has the key.
    async fn meet(
        &self,
        arrival: BoxFuture<'static, io::Result<Dialled>>,
    ) -> Option<(Established<(Peer, Identity)>, Option<SocketAddr>)> {
        let hello = async {
            let dialled = arrival.await.map_err(|error| (HelloError::from(error), None))?;
            let ServerConfig { keys, incarnation, encryption, .. } = &self.config;
            let from = dialled.from;
            let met = NodeSide { keys, incarnation: *incarnation, encryption, host: self.host() }.accept(dialled).await;
            met.map(|established| (established, from))
        };
        match self.host().timeout(self.config.hello_limit, hello).await {
            Ok(Ok(met)) => Some(met),
            Ok(Err((error, stream))) => {
                tracing::debug!(%error, "a peer was refused");
                if let Some(stream) = stream {
                    // It counts as a stranger for as long as it holds a descriptor.
                    Box::pin(let_read(stream, self.host())).await;
                }
                None
            }
            Err(_) => {
                tracing::debug!("a peer took too long to prove itself");
                None
            }
        }
    }

    async fn talk(self: Arc<Self>, established: Established<(Peer, Identity)>, from: Option<SocketAddr>) {
        let Established { peer: (peer, identity), stream, integrity } = established;
        let (client, access) = ((identity.id, peer.who), Access(identity));
        let before = self.state.lock().sessions.get(&client).cloned();
        if let Some(before) = before {
            // Its connection may look alive for a while yet. Nothing of it may work on beside the new one.
            before.dismissed.notify_one();
            let mut over = before.over.clone();
            while over.changed().await.is_ok() {}
        }
        let (reader, writer) = stream.halves();
        let outbound = Outbound::new(writer, integrity);
        let (running, over) = watch::channel(());
        let entry = match self.enter(client, &access, &outbound, over) {
            Ok(entry) => entry,
            Err(None) => return,
            Err(Some(why)) => {
                tracing::warn!(key = %access.0.name, why, "a client was turned away");
                if let Ok(_permit) = self.farewells.try_acquire() {
                    turn_away(reader, &outbound, self.host(), &Goodbye::TurnedAway(why)).await;
                }
                return;
            }
        };
        let key = Arc::clone(&access.0.name);
        let who = ClientId { key: access.key().to_bytes(), number: client.1 };
        let end = if access.0.role == KeyRole::Worker {
            WorkerSession::new(Arc::clone(&self), client.1, outbound, access).run(reader, &entry).await
        } else {
            let session = Session::new(Arc::clone(&self), (who, from), outbound, access, Arc::clone(&entry.tally));
            session.run(reader, &entry.dismissed).await
        };
        tracing::debug!(client = format_args!("{:032x}", client.1), %key, end, "a connection ended");
        self.state.lock().sessions.remove(&client);
        drop(running);
    }

    /// Notes a connection as its client's session. If there is no place for it, the error says why; none, if there is nobody
    /// to be told.
    fn enter(
        &self,
        client: (KeyId, u128),
        access: &Access,
        outbound: &Arc<Outbound>,
        over: watch::Receiver<()>,
    ) -> Result<Arc<SessionEntry>, Option<String>> {
        let mut state = self.state.lock();
        // Or the key was revoked meanwhile, or another connection of this client was faster while this one waited.
        if state.closed || !self.config.keys.knows(access.key()) || state.sessions.contains_key(&client) {
            return Err(None);
        }
        let tally = self.tally_for(&state, access)?;
        tally.join(outbound);
        let entry = SessionEntry { tally, outbound: Arc::clone(outbound), dismissed: Notify::new(), over };
        let entry = Arc::new(entry);
        state.sessions.insert(client, Arc::clone(&entry));
        Ok(entry)
    }

    /// The tally of another connection.
    ///
    /// # Errors
    ///
    /// There are too many; in words.
    fn tally_for(&self, state: &State, access: &Access) -> Result<Arc<Tally>, String> {
        let identity = &access.0;
        if state.sessions.len() >= access.connections_max(self.config.connections_max) {
            return Err(format!("it has {} and takes no more", state.sessions.len()));
        }
        if identity.role == KeyRole::Admin {
            return Ok(Tally::new(identity));
        }
        let of_key = |((key, _), _): &(&(KeyId, u128), _)| *key == identity.id;
        let (mut count, mut tally) = (0, None);
        for (_, entry) in state.sessions.iter().filter(of_key) {
            count += 1;
            tally = Some(Arc::clone(&entry.tally));
        }
        if count >= connections_max_of(identity.role) {
            return Err(format!("the key `{}` has {count}, and may have no more", identity.name));
        }
        Ok(tally.unwrap_or_else(|| Tally::new(identity)))
    }

    /// There is no descriptor left: some strangers give theirs back.
    pub(crate) fn make_room(&self) {
        let mut state = self.state.lock();
        for _ in 0..state.strangers.len().div_ceil(8) {
            state.strangers.evict(random(self.host()));
        }
    }

    /// Waits until every question has been answered, but not for long: behind the farewell nothing is said.
    async fn answer_all(&self) {
        let _ = self.host().timeout(FAREWELL_LIMIT, self.questions.all_answered()).await;
    }

    pub(crate) fn host(&self) -> &Host {
        self.link.host()
    }

    /// Tells every client that the node ends, once its questions have been answered, and waits until they are gone, but not for long.
    pub(crate) async fn close(&self) {
        self.answer_all().await;
        let sessions: Vec<Arc<SessionEntry>> = {
            let mut state = self.state.lock();
            state.closed = true;
            state.strangers.clear();
            state.sessions.values().cloned().collect()
        };
        for session in &sessions {
            say_goodbye(&session.outbound, &Goodbye::NodeStopped);
        }
        let gone = async {
            for session in &sessions {
                let mut over = session.over.clone();
                while over.changed().await.is_ok() {}
            }
        };
        if self.host().timeout(FAREWELL_LIMIT, gone).await.is_err() {
            sessions.iter().for_each(|session| session.dismissed.notify_one());
        }
    }
}
