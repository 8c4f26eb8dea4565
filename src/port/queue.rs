//! The bounded queue between those who push into a job's input and the task that is its source.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap, VecDeque},
    mem,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::{Mutex, MutexGuard};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Feed, Given, InputEnd, InputError,
    fed::{self, Fed, Within},
    writer::{ClientId, EncodedWriter, PortWriter, WriterId},
};
use crate::{job::Limits, schema::TypeDescription};

/// What a source found in its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortEvent {
    /// At least one item was taken.
    Items,
    /// Nothing is queued and nothing will come.
    Finished,
    /// The next item did not come from the process where it was sent, and this is why.
    NotCarried(String),
}

/// An input whose item type is no longer known.
pub(crate) trait AnyInput: Any + Send + Sync {
    fn description(&self) -> &Arc<TypeDescription>;
    /// Handles outside that have sent or finished here and are alive.
    fn senders(&self) -> u32;
    /// `finish` was called.
    fn is_finished(&self) -> bool;
    /// See [`InputPort::close`].
    fn close(&self) -> u64;
    /// A sender of this number on the other side of a connection; one that was known before goes on where it was.
    ///
    /// # Errors
    ///
    /// [`InputError::TooManySenders`].
    fn writer(self: Arc<Self>, writer: WriterId) -> Result<Box<dyn EncodedWriter>, InputError>;
    /// See [`InputPort::close_to_senders`].
    fn close_to_senders(&self);
    /// The next items that were sent, for a source in another process. Runs code of the user's. One caller has them.
    fn poll_given(&self, cx: &mut Context<'_>) -> Poll<Given>;
    /// The source has taken so many items that were [given](Self::poll_given): there is room for as many.
    fn taken_there(&self, items: u64);
    /// Makes this the port of a source whose senders are in another process. Items are decoded `within`.
    fn feed_from(&self, feed: Arc<dyn Feed>, within: Within);
    /// What [`poll_given`](Self::poll_given) gave there. The source decodes it; then `owed` bytes are
    /// [used up](Feed::used).
    fn deliver(&self, given: Given, owed: u64);
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// Senders on the other side of connections whose numbers an input remembers. Of more, those are forgotten first whose
/// clients have been gone for longest.
const WRITERS_MAX: usize = 65_536;

/// Of these, senders of one client.
const WRITERS_OF_CLIENT_MAX: usize = 4_096;

/// One named input, shared by its source task and those who push.
pub(crate) struct InputPort<T> {
    name: String,
    description: Arc<TypeDescription>,
    items_max: usize,
    state: Mutex<State<T>>,
}

struct State<T> {
    queue: VecDeque<T>,
    /// Items that are on their way to a source in another process, which has not taken them yet: they take up room.
    away: usize,
    /// Present if the senders are in another process.
    fed: Option<Fed<T>>,
    /// `finish` was called.
    finished: bool,
    /// `stop` came, or the source is gone.
    closed: bool,
    senders: u32,
    writers: Writers,
    source: Option<Waker>,
    line: Line,
}

/// The senders on the other side of connections.
#[derive(Default)]
struct Writers {
    known: HashMap<WriterId, Known>,
    of_client: HashMap<ClientId, usize>,
    /// Those that are not connected, by when they went.
    gone: BTreeMap<u64, WriterId>,
    gone_ever: u64,
}

struct Known {
    /// The number of the next item.
    next: u64,
    /// How often it is connected: more than once if its client opens it again before it has closed it.
    connected: usize,
    /// Its place in `gone`, if it is not connected.
    gone: Option<u64>,
}

impl Writers {
    /// # Errors
    ///
    /// There are as many as the given limit, and all are connected.
    fn open(&mut self, writer: WriterId) -> Result<(), usize> {
        if let Some(known) = self.known.get_mut(&writer) {
            known.connected += 1;
            if let Some(place) = known.gone.take() {
                self.gone.remove(&place);
            }
            return Ok(());
        }
        let of_client = self.of_client.get(&writer.client).copied().unwrap_or(0);
        if of_client >= WRITERS_OF_CLIENT_MAX {
            let oldest = self.gone.values().copied().find(|gone| gone.client == writer.client);
            self.forget(oldest.ok_or(WRITERS_OF_CLIENT_MAX)?);
        }
        if self.known.len() >= WRITERS_MAX {
            let oldest = self.gone.values().next().copied();
            self.forget(oldest.ok_or(WRITERS_MAX)?);
        }
        self.known.insert(writer, Known { next: 0, connected: 1, gone: None });
        *self.of_client.entry(writer.client).or_default() += 1;
        Ok(())
    }

    /// One of its connections is gone. Unless that was `for_good`, it may come back, as long as there is room to remember it.
    fn leave(&mut self, writer: WriterId, for_good: bool) {
        let Some(known) = self.known.get_mut(&writer) else { return };
        known.connected -= 1;
        if known.connected > 0 {
            return;
        }
        if for_good {
            return self.forget(writer);
        }
        known.gone = Some(self.gone_ever);
        self.gone.insert(self.gone_ever, writer);
        self.gone_ever += 1;
    }

    fn forget(&mut self, writer: WriterId) {
        let Some(known) = self.known.remove(&writer) else { return };
        if let Some(place) = known.gone {
            self.gone.remove(&place);
        }
        if let Some(of_client) = self.of_client.get_mut(&writer.client) {
            *of_client -= 1;
            if *of_client == 0 {
                self.of_client.remove(&writer.client);
            }
        }
    }
}

/// Senders that wait for room, in the order they came. Who stands at place `n` may push once there is room for more
/// than `n` items; so room that comes free wakes several at once, and one who is slow to come holds up nobody behind
/// while there is room for both.
#[derive(Default)]
struct Line {
    /// Tickets rise. A waker is taken out when it is called.
    waiting: VecDeque<(u64, Option<Waker>)>,
    next_ticket: u64,
}

impl Line {
    fn place(&self, ticket: Option<u64>) -> usize {
        ticket.map_or(self.waiting.len(), |ticket| self.waiting.partition_point(|(other, _)| *other < ticket))
    }

    /// Keeps or takes a place; returns a waker that is of no more use.
    fn wait(&mut self, ticket: &mut Option<u64>, waker: &Waker) -> Option<Waker> {
        let place = self.place(*ticket);
        if let Some((_, known)) = self.waiting.get_mut(place) {
            return known.replace(waker.clone());
        }
        *ticket = Some(self.next_ticket);
        self.waiting.push_back((self.next_ticket, Some(waker.clone())));
        self.next_ticket += 1;
        None
    }

    /// Gives the place up, if there is one; returns a waker that is of no more use.
    fn leave(&mut self, ticket: &mut Option<u64>) -> Option<Waker> {
        let ticket = ticket.take()?;
        let place = self.place(Some(ticket));
        if self.waiting.get(place)?.0 != ticket {
            return None;
        }
        self.waiting.remove(place)?.1
    }

    /// Those for whom there is room and who have not been told.
    fn due(&mut self, room: usize) -> Vec<Waker> {
        self.waiting.iter_mut().take(room).filter_map(|(_, waker)| waker.take()).collect()
    }

    /// Everyone, to be told that there will never be room.
    fn clear(&mut self) -> Vec<Waker> {
        mem::take(&mut self.waiting).into_iter().filter_map(|(_, waker)| waker).collect()
    }
}

/// Items about to be pushed: one, or several in order.
pub(super) trait Supply<T> {
    fn take_first(&mut self) -> Option<T>;
    fn is_used_up(&self) -> bool;
}

impl<T> Supply<T> for Option<T> {
    fn take_first(&mut self) -> Option<T> {
        self.take()
    }

    fn is_used_up(&self) -> bool {
        self.is_none()
    }
}

impl<T> Supply<T> for VecDeque<T> {
    fn take_first(&mut self) -> Option<T> {
        self.pop_front()
    }

    fn is_used_up(&self) -> bool {
        self.is_empty()
    }
}

impl<T> InputPort<T> {
    pub(crate) fn new(name: &str, description: Arc<TypeDescription>, limits: &Limits) -> Arc<Self> {
        let state = State {
            queue: VecDeque::new(),
            away: 0,
            fed: None,
            finished: false,
            closed: false,
            senders: 0,
            writers: Writers::default(),
            source: None,
            line: Line::default(),
        };
        // Without room for one item nothing would ever be sent.
        let items_max = limits.port_items.max(1);
        Arc::new(Self { name: name.to_owned(), description, items_max, state: Mutex::new(state) })
    }

    /// Takes up to `max` items, in the order they were accepted. One task calls this.
    pub(crate) fn poll_batch(&self, cx: &mut Context<'_>, into: &mut Vec<T>, max: usize) -> Poll<PortEvent> {
        let mut state = match self.with_fed() {
            Ok(state) => state,
            Err(message) => return Poll::Ready(PortEvent::NotCarried(message)),
        };
        if state.queue.is_empty() {
            if state.finished || state.closed {
                return Poll::Ready(PortEvent::Finished);
            }
            let replaced = state.source.replace(cx.waker().clone());
            drop(state);
            drop(replaced);
            return Poll::Pending;
        }
        let count = state.queue.len().min(max.max(1));
        into.extend(state.queue.drain(..count));
        let due = state.due(self.items_max);
        let feed = state.fed.as_ref().map(Fed::feed);
        drop(state);
        due.into_iter().for_each(Waker::wake);
        if let Some(feed) = feed {
            feed.taken(count as u64);
        }
        Poll::Ready(PortEvent::Items)
    }

    /// The state, once what came next from another process is in the queue, if that is where the senders are.
    ///
    /// # Errors
    ///
    /// The next item did not come, for this reason.
    fn with_fed(&self) -> Result<MutexGuard<'_, State<T>>, String> {
        loop {
            let mut state = self.state.lock();
            if !state.queue.is_empty() || state.finished || state.closed {
                return Ok(state);
            }
            let Some(fed) = &mut state.fed else { return Ok(state) };
            match fed.next() {
                fed::Next::Begin => {
                    let feed = fed.feed();
                    drop(state);
                    feed.begin();
                }
                fed::Next::Run(run) => {
                    // Without the lock: it is code of the user's.
                    let (decode, feed) = (fed.decode(), fed.feed());
                    drop(state);
                    let items = decode(run.items, &run.bytes)?;
                    feed.used(run.owed);
                    self.state.lock().queue.extend(items);
                }
                fed::Next::End(InputEnd::NotCarried(message)) => return Err(message),
                fed::Next::End(InputEnd::Finished) => state.finished = true,
                fed::Next::End(InputEnd::Stopped) => state.closed = true,
                fed::Next::Nothing => return Ok(state),
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A sender on the other side of a connection comes, or comes back.
    pub(super) fn know_writer(&self, writer: WriterId) -> Result<(), InputError> {
        let opened = self.state.lock().writers.open(writer);
        opened.map_err(|limit| InputError::TooManySenders { input: self.name.clone(), limit })
    }

    pub(super) fn writer_next(&self, writer: WriterId) -> u64 {
        self.state.lock().writers.known.get(&writer).map_or(0, |known| known.next)
    }

    /// It is not connected any more, and will not come back if this was `for_good`.
    pub(super) fn leave_writer(&self, writer: WriterId, for_good: bool) {
        self.state.lock().writers.leave(writer, for_good);
    }

    /// Pushes what there is room for; ready when all of `supply` is in, or with why the rest will never be.
    pub(super) fn poll_push(
        &self,
        cx: &mut Context<'_>,
        ticket: &mut Option<u64>,
        supply: &mut impl Supply<T>,
    ) -> Poll<Result<(), InputError>> {
        self.poll_push_as(cx, ticket, supply, None)
    }

    /// As [`poll_push`](Self::poll_push); counts what was pushed as the items of `writer`.
    pub(super) fn poll_push_as(
        &self,
        cx: &mut Context<'_>,
        ticket: &mut Option<u64>,
        supply: &mut impl Supply<T>,
        writer: Option<WriterId>,
    ) -> Poll<Result<(), InputError>> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.finished || state.closed {
            *ticket = None;
            return Poll::Ready(Err(self.refusal(state.finished)));
        }
        let room = state.room(self.items_max);
        let allowance = room.saturating_sub(state.line.place(*ticket));
        let mut pushed = 0;
        while pushed < allowance
            && let Some(item) = supply.take_first()
        {
            state.queue.push_back(item);
            pushed += 1;
        }
        if let Some(known) = writer.and_then(|writer| state.writers.known.get_mut(&writer)) {
            known.next += pushed as u64;
        }
        let done = supply.is_used_up();
        // Dropped without the lock: the drop of a waker may be that of a future with another sender in it.
        let useless = if done { state.line.leave(ticket) } else { state.line.wait(ticket, cx.waker()) };
        let due = if done { state.due(self.items_max) } else { Vec::new() };
        let source = if pushed > 0 { state.source.take() } else { None };
        drop(guard);
        drop(useless);
        source.into_iter().chain(due).for_each(Waker::wake);
        if done { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// The sender waits no more.
    pub(super) fn give_up(&self, ticket: &mut Option<u64>) {
        if ticket.is_none() {
            return;
        }
        let mut state = self.state.lock();
        let useless = state.line.leave(ticket);
        let due = state.due(self.items_max);
        drop(state);
        drop(useless);
        due.into_iter().for_each(Waker::wake);
    }

    /// Nothing more comes; those who wait for room are refused.
    pub(super) fn finish(&self) -> Result<(), InputError> {
        let mut state = self.state.lock();
        if state.finished {
            return Ok(());
        }
        if state.closed {
            return Err(self.refusal(false));
        }
        state.finished = true;
        let wakers = state.everyone();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Ok(())
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.state.lock().finished
    }

    /// `stop`: refuses further items; what was accepted is still delivered, then the source reads `Finished`.
    ///
    /// Where the senders are in another process, it is there that they are refused, and the end comes from there.
    pub(crate) fn close_to_senders(&self) {
        let mut state = self.state.lock();
        if let Some(fed) = &mut state.fed {
            let feed = fed.feed();
            drop(state);
            return feed.stop();
        }
        state.closed = true;
        let wakers = state.everyone();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The source is gone: refuses further items, and throws away what is queued. Returns how many items that were;
    /// a second call returns 0.
    pub(crate) fn close(&self) -> u64 {
        let mut state = self.state.lock();
        state.closed = true;
        let wakers = state.everyone();
        let discarded = mem::take(&mut state.queue);
        let fed = state.fed.as_mut().map(|fed| (fed.close(), fed.feed()));
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        let undecoded = fed.map_or(0, |(items, feed)| {
            feed.close();
            items
        });
        // The items are dropped here, without the lock: their drop is user code.
        discarded.len() as u64 + undecoded
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.state.lock().queue.len()
    }

    pub(super) fn count_senders(&self, change: impl FnOnce(u32) -> u32) {
        let mut state = self.state.lock();
        state.senders = change(state.senders);
    }

    fn refusal(&self, finished: bool) -> InputError {
        let input = self.name.clone();
        if finished { InputError::Finished { input } } else { InputError::Closed { input } }
    }
}

impl<T> State<T> {
    fn room(&self, items_max: usize) -> usize {
        items_max.saturating_sub(self.queue.len() + self.away)
    }

    fn due(&mut self, items_max: usize) -> Vec<Waker> {
        self.line.due(self.room(items_max))
    }

    /// The source and all who wait for room: nobody will be woken later.
    fn everyone(&mut self) -> Vec<Waker> {
        self.line.clear().into_iter().chain(self.source.take()).collect()
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> AnyInput for InputPort<T> {
    fn description(&self) -> &Arc<TypeDescription> {
        &self.description
    }

    fn senders(&self) -> u32 {
        self.state.lock().senders
    }

    fn is_finished(&self) -> bool {
        Self::is_finished(self)
    }

    fn close(&self) -> u64 {
        Self::close(self)
    }

    fn writer(self: Arc<Self>, writer: WriterId) -> Result<Box<dyn EncodedWriter>, InputError> {
        Ok(Box::new(PortWriter::open(self, writer)?))
    }

    fn close_to_senders(&self) {
        Self::close_to_senders(self);
    }

    fn poll_given(&self, cx: &mut Context<'_>) -> Poll<Given> {
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            if state.finished || state.closed {
                let end = if state.finished { InputEnd::Finished } else { InputEnd::Stopped };
                return Poll::Ready(Given::End(end));
            }
            let replaced = state.source.replace(cx.waker().clone());
            drop(state);
            drop(replaced);
            return Poll::Pending;
        }
        let count = state.queue.len().min(fed::RUN_ITEMS_MAX);
        let mut items: VecDeque<T> = state.queue.drain(..count).collect();
        state.away += count;
        drop(state);
        let given = fed::encoded(&self.description, &mut items);
        let mut state = self.state.lock();
        state.away = state.away.saturating_sub(items.len());
        items.into_iter().rev().for_each(|item| state.queue.push_front(item));
        let due = state.due(self.items_max);
        drop(state);
        due.into_iter().for_each(Waker::wake);
        Poll::Ready(given)
    }

    fn taken_there(&self, items: u64) {
        let mut state = self.state.lock();
        state.away = state.away.saturating_sub(usize::try_from(items).unwrap_or(usize::MAX));
        let due = state.due(self.items_max);
        drop(state);
        due.into_iter().for_each(Waker::wake);
    }

    fn feed_from(&self, feed: Arc<dyn Feed>, within: Within) {
        self.state.lock().fed = Some(Fed::new(feed, within));
    }

    fn deliver(&self, given: Given, owed: u64) {
        let mut state = self.state.lock();
        // The source wants nothing more.
        if state.closed {
            return;
        }
        let Some(fed) = &mut state.fed else { return };
        fed.push(given, owed);
        let source = state.source.take();
        drop(state);
        source.into_iter().for_each(Waker::wake);
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl<T> std::fmt::Debug for InputPort<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InputPort").field("name", &self.name).finish_non_exhaustive()
    }
}
