//! The end of a chain that hands items to other tasks, and the head that receives them there.

use std::{
    collections::VecDeque,
    hash::Hash,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    dataplane::{
        chain::{BoxStage, Ending, Failure, Lull, Meter, Reach, Stage, TaskState},
        channel::{CloseAs, Gate, GateReceiver, LaneSender, Offer, Place, Taken},
        hash::{KEY_GROUPS, hash_of, instance_of},
        loops::LoopPart,
        mark::Mark,
        task::{Head, Input},
    },
    job::FailureCause,
    protocol::{LoopId, Sent, TaskCommand, Wait},
};

/// How a batch is dealt out to the lanes of an exchange.
pub(crate) trait Route<T> {
    /// Moves all of `items` into the lanes. Lanes that are closed may be given items; they are thrown away later.
    fn deal(&mut self, items: &mut Vec<T>, lanes: &mut [OutLane<T>]);

    /// How many of `lanes` each item goes to.
    fn copies(&self, lanes: usize) -> usize {
        lanes.min(1)
    }
}

/// Everything to the one lane there is.
pub(crate) struct Single;

impl<T> Route<T> for Single {
    fn deal(&mut self, items: &mut Vec<T>, lanes: &mut [OutLane<T>]) {
        let buffer = &mut lanes[0].buffer;
        if buffer.is_empty() {
            std::mem::swap(buffer, items);
        } else {
            buffer.append(items);
        }
    }
}

/// Item by item in turn.
pub(crate) struct InTurn(pub usize);

impl<T> Route<T> for InTurn {
    fn deal(&mut self, items: &mut Vec<T>, lanes: &mut [OutLane<T>]) {
        for item in items.drain(..) {
            let lane = self.0;
            self.0 = if lane + 1 == lanes.len() { 0 } else { lane + 1 };
            lanes[lane].buffer.push(item);
        }
    }
}

/// Every item to every lane.
pub(crate) struct ToAll;

impl<T: Clone> Route<T> for ToAll {
    fn deal(&mut self, items: &mut Vec<T>, lanes: &mut [OutLane<T>]) {
        let Some((last, others)) = lanes.split_last_mut() else { return };
        for lane in others {
            lane.buffer.extend_from_slice(items);
        }
        last.buffer.append(items);
    }

    fn copies(&self, lanes: usize) -> usize {
        lanes
    }
}

/// By the hash of the key, so that equal keys meet.
pub(crate) struct ByKey {
    /// Key group to lane.
    table: [u8; KEY_GROUPS],
}

impl ByKey {
    pub fn new(lanes: usize) -> Self {
        let mut table = [0; KEY_GROUPS];
        for (group, lane) in table.iter_mut().enumerate() {
            // At most `KEY_GROUPS` lanes: more are refused when the flow is built.
            *lane = instance_of((group as u64) << 57, lanes) as u8;
        }
        Self { table }
    }
}

impl<K: Hash, V> Route<(K, V)> for ByKey {
    fn deal(&mut self, items: &mut Vec<(K, V)>, lanes: &mut [OutLane<(K, V)>]) {
        for item in items.drain(..) {
            let group = (hash_of(&item.0) >> 57) as usize;
            lanes[usize::from(self.table[group])].buffer.push(item);
        }
    }
}

/// How much a batch weighs against the byte limit of its channel.
pub(crate) type Weigh<T> = Arc<dyn Fn(&T) -> usize + Send + Sync>;

/// One channel of an exchange, as its producer sees it.
pub(crate) struct OutLane<T> {
    channel: usize,
    sender: LaneSender<T>,
    /// Not yet a full batch.
    buffer: Vec<T>,
    /// Batches that found no credit, and marks behind them.
    backlog: VecDeque<Held<T>>,
    closed: bool,
    /// Items thrown away because the consumer had closed its end.
    thrown: u64,
    sent: Sent,
    /// What the channel is to the loop that its producer is part of. One that leaves the loop is an `Entry` to what follows.
    place: Place,
}

enum Held<T> {
    Batch(Vec<T>),
    Mark(Mark),
}

impl<T> OutLane<T> {
    pub fn new(channel: usize, sender: LaneSender<T>) -> Self {
        let sent = Sent::default();
        Self {
            channel,
            sender,
            buffer: Vec::new(),
            backlog: VecDeque::new(),
            closed: false,
            thrown: 0,
            sent,
            place: Place::Entry,
        }
    }

    /// Sends what the backlog and then the buffer hold, as far as there is credit. Fails only where a loop is closed.
    fn push(&mut self, out: &Out<T>, partial: bool) -> Result<(), Failure> {
        if self.closed {
            self.close();
            return Ok(());
        }
        while let Some(held) = self.backlog.pop_front() {
            match held {
                Held::Mark(mark) => self.sender.mark(mark),
                Held::Batch(mut batch) => {
                    let offer = self.offer(&mut batch, out);
                    if !matches!(offer, Ok(Offer::Taken)) {
                        self.backlog.push_front(Held::Batch(batch));
                    }
                    match offer? {
                        Offer::Taken => {}
                        Offer::Full => return Ok(()),
                        Offer::Closed => {
                            self.close();
                            return Ok(());
                        }
                    }
                }
            }
        }
        let due = if partial { 1 } else { out.batch_items };
        if self.buffer.len() >= due {
            let mut batch = std::mem::take(&mut self.buffer);
            let offer = self.offer(&mut batch, out);
            self.buffer = batch;
            match offer? {
                Offer::Taken => {}
                Offer::Full => {
                    // Kept as a batch only when it is full; a partial one may still grow.
                    if self.buffer.len() >= out.batch_items {
                        self.backlog.push_back(Held::Batch(std::mem::take(&mut self.buffer)));
                    }
                }
                Offer::Closed => self.close(),
            }
        }
        Ok(())
    }

    /// Offers a batch to the channel, and counts it if it is taken.
    fn offer(&mut self, batch: &mut Vec<T>, out: &Out<T>) -> Result<Offer, Failure> {
        let (items, bytes) = (batch.len() as u64, weight(batch, &out.weigh));
        let offer = match out.task.looped.as_ref().filter(|_| self.place != Place::Entry) {
            None => self.sender.offer(batch, bytes),
            Some(looped) => self.offer_in_loop(batch, bytes, looped)?,
        };
        if offer == Offer::Taken {
            self.sent.sent += items;
        }
        Ok(offer)
    }

    fn offer_in_loop(&mut self, batch: &mut Vec<T>, bytes: usize, looped: &LoopPart) -> Result<Offer, Failure> {
        let future = looped.plan.channels.get(&self.channel).and_then(Option::as_ref);
        if let Some(future) = future.filter(|_| looped.watch.has_ended()) {
            let (future, items) = (future.to_string(), batch.len() as u64);
            return Err(FailureCause::LoopEnded { future, items }.into());
        }
        looped.watch.take_token();
        let offer = match self.place {
            Place::Closing => self.sender.offer_freely(batch, bytes, looped.plan.items_max),
            Place::Entry | Place::Inner => self.sender.offer(batch, bytes),
        };
        if offer == Offer::Taken {
            looped.sent();
            return Ok(offer);
        }
        looped.not_sent();
        match future.filter(|_| offer == Offer::Full) {
            Some(future) => {
                let (future, limit_items) = (future.to_string(), looped.plan.items_max as u64);
                Err(FailureCause::LoopTooLarge { future, limit_items }.into())
            }
            None => Ok(offer),
        }
    }

    fn mark(&mut self, mark: Mark) {
        if self.closed {
            return;
        }
        if !self.buffer.is_empty() {
            self.backlog.push_back(Held::Batch(std::mem::take(&mut self.buffer)));
        }
        self.backlog.push_back(Held::Mark(mark));
    }

    fn close(&mut self) {
        self.closed = true;
        self.thrown += self.waiting();
        self.backlog.clear();
        self.buffer.clear();
    }

    /// What came in after the last flush is yet to be sent: in a loop, a batch that no token stands for.
    fn owes(&self) -> bool {
        !self.closed && self.waiting() > 0
    }

    fn waiting(&self) -> u64 {
        let backlog = self.backlog.iter().map(|held| match held {
            Held::Batch(batch) => batch.len() as u64,
            Held::Mark(_) => 0,
        });
        self.buffer.len() as u64 + backlog.sum::<u64>()
    }
}

fn weight<T>(batch: &[T], weigh: &Option<Weigh<T>>) -> usize {
    match weigh {
        None => size_of_val(batch),
        Some(weigh) => batch.iter().map(|item| weigh(item)).sum(),
    }
}

/// What all lanes of an exchange are sent with.
struct Out<T> {
    task: Rc<TaskState>,
    weigh: Option<Weigh<T>>,
    batch_items: usize,
}

/// The last stage of a chain whose items go on to other tasks.
pub(crate) struct ExchangeStage<T, R> {
    meter: Meter,
    route: R,
    lanes: Vec<OutLane<T>>,
    out: Out<T>,
    registered: bool,
}

impl<T: 'static, R: Route<T> + 'static> ExchangeStage<T, R> {
    pub fn boxed(meter: Meter, route: R, mut lanes: Vec<OutLane<T>>, weigh: Option<Weigh<T>>) -> BoxStage<T> {
        let task = Rc::clone(&meter.task);
        if let Some(looped) = &task.looped {
            lanes.iter_mut().for_each(|lane| lane.place = looped.plan.place(lane.channel));
        }
        let batch_items = task.limits.batch_items;
        Box::new(Self { meter, route, lanes, out: Out { task, weigh, batch_items }, registered: false })
    }
}

impl<T, R: Route<T>> Stage<T> for ExchangeStage<T, R> {
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure> {
        let count = items.len();
        // The route runs user code: `Hash` of a key, `Clone` of an item.
        drop(self.meter.receive(count));
        self.meter.account.processed += count as u64;
        self.route.deal(items, &mut self.lanes);
        self.meter.task.put_out(count * self.route.copies(self.lanes.len()));
        for lane in &mut self.lanes {
            if lane.closed || lane.buffer.len() >= self.out.batch_items {
                lane.push(&self.out, false)?;
            }
        }
        Ok(())
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
        for lane in &mut self.lanes {
            lane.mark(mark);
            lane.push(&self.out, true)?;
        }
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let mut blocked = false;
        for lane in &mut self.lanes {
            if lane.closed || (self.registered && lane.backlog.is_empty()) {
                continue;
            }
            // Registered before the last look, so that credit coming back in between is not missed. The first poll
            // registers every lane: a consumer that closes its gate must be able to wake a source that has nothing.
            if lane.sender.register(cx) {
                lane.close();
            }
            lane.push(&self.out, false)?;
            blocked |= !lane.backlog.is_empty();
        }
        self.registered = true;
        if blocked {
            self.meter.task.wait.set(Wait::Room);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn flush(&mut self, _lull: Lull) -> Result<(), Failure> {
        for lane in &mut self.lanes {
            if !lane.buffer.is_empty() {
                lane.push(&self.out, true)?;
            }
            if !lane.buffer.is_empty() {
                // No credit: it goes to the backlog, so that `poll` waits for it.
                lane.backlog.push_back(Held::Batch(std::mem::take(&mut lane.buffer)));
            }
        }
        // What closed or filled up shows at the next poll.
        self.registered = false;
        Ok(())
    }

    fn wants_more(&self, reach: Reach) -> bool {
        let reaches = |lane: &OutLane<T>| reach == Reach::Anywhere || lane.place == Place::Entry;
        self.lanes.iter().any(|lane| !lane.closed && reaches(lane))
    }

    fn owes(&self) -> bool {
        self.lanes.iter().any(OutLane::owes)
    }

    fn settle(&mut self, ending: Ending) {
        for lane in &mut self.lanes {
            if ending == Ending::Discarded {
                // The consumer closed because it was cancelled too, so these items count as lost with the job.
                lane.sent.dropped += lane.waiting() + lane.thrown;
            }
            self.meter.task.report_sent(lane.channel, lane.sent);
        }
        self.meter.settle(ending);
    }
}

/// The head of a chain behind an exchange.
pub(crate) struct GateHead<T> {
    state: Rc<TaskState>,
    gate: GateReceiver<T>,
    /// The channel of each lane.
    channels: Vec<usize>,
    /// A batch larger than the task's quantum, handed out in slices.
    rest: Option<std::vec::IntoIter<T>>,
    /// The lane and number of items of a `rest` that was never handed on.
    cut: Option<(usize, u64)>,
    closed: bool,
    ended: bool,
    /// Of a task that a loop begins at.
    start: Option<LoopStart<T>>,
}

/// What it takes to begin and end a loop.
struct LoopStart<T> {
    id: LoopId,
    /// A lane by which the task tells itself of holds, and of the end: to the gate, the loop is one more producer.
    orders: LaneSender<T>,
}

impl<T> GateHead<T> {
    pub fn new(state: &Rc<TaskState>, gate: Arc<Gate<T>>, channels: Vec<usize>) -> Self {
        let mut start = None;
        let receiver = match &state.looped {
            None => GateReceiver::new(gate),
            Some(looped) => {
                let mut places: Vec<Place> = channels.iter().map(|channel| looped.plan.place(*channel)).collect();
                if places.contains(&Place::Closing) {
                    start = Some(LoopStart { id: looped.plan.id, orders: gate.add_lane() });
                    places.push(Place::Inner);
                }
                GateReceiver::in_loop(gate, places)
            }
        };
        let state = Rc::clone(state);
        Self { state, gate: receiver, channels, rest: None, cut: None, closed: false, ended: false, start }
    }

    fn is_looping(&self) -> bool {
        let lane = self.gate.lane_in_hand();
        self.state.looped.is_some() && lane.is_some_and(|lane| self.gate.place(lane) != Place::Entry)
    }

    /// What was thrown away in front of the task is no longer under way in the loop.
    fn refused(&self, batches: usize) {
        if let Some(looped) = &self.state.looped {
            looped.refused(batches);
        }
    }

    fn drop_rest(&mut self) {
        if let Some(rest) = self.rest.take() {
            self.cut = self.gate.lane_in_hand().map(|lane| (lane, rest.len() as u64));
        }
    }
}

impl<T> Head<T> for GateHead<T> {
    fn poll_batch(&mut self, cx: &mut Context<'_>, into: &mut Vec<T>, max: usize) -> Poll<Result<Input, Failure>> {
        if self.ended {
            return Poll::Pending;
        }
        if self.closed {
            self.ended = true;
            return Poll::Ready(Ok(Input::Mark(Mark::End)));
        }
        if let Some(rest) = &mut self.rest {
            into.extend(rest.by_ref().take(max));
            if rest.len() == 0 {
                self.rest = None;
            }
            return Poll::Ready(Ok(Input::Items));
        }
        // What waits to go round is held at the loop's start.
        if self.start.is_some() && self.state.holding.get() {
            self.state.wait.set(Wait::Resume);
            return Poll::Pending;
        }
        // The batch taken last has been consumed; its buffer, emptied by the chain, goes back to its producer.
        self.gate.release(Some(std::mem::take(into)));
        match self.gate.poll_take(cx) {
            Poll::Pending => {
                self.state.wait.set(Wait::Input);
                Poll::Pending
            }
            Poll::Ready(Taken::Mark(mark)) => {
                self.ended = mark == Mark::End;
                if self.ended && self.start.is_some() {
                    // Nothing waits there, or the loop would not have been quiet; if it does, the accounts show it.
                    let thrown = self.gate.close_loop(CloseAs::Discarded);
                    self.refused(thrown);
                }
                Poll::Ready(Ok(Input::Mark(mark)))
            }
            Poll::Ready(Taken::Batch(batch)) => {
                if self.is_looping()
                    && let Some(looped) = &self.state.looped
                {
                    looped.received();
                }
                if batch.len() <= max {
                    *into = batch;
                    return Poll::Ready(Ok(Input::Items));
                }
                let mut rest = batch.into_iter();
                into.extend(rest.by_ref().take(max));
                self.rest = Some(rest);
                Poll::Ready(Ok(Input::Items))
            }
        }
    }

    fn is_entered(&self) -> bool {
        self.gate.is_entered()
    }

    /// Elsewhere than at the start of a loop, the end and the hold reach a task through its channels.
    fn command(&mut self, command: TaskCommand) {
        let Some(LoopStart { id, orders }) = &self.start else { return };
        match command {
            TaskCommand::Hold { epoch } => {
                self.gate.hold_back(self.state.looped.as_ref().map(|looped| looped.plan.items_max / 2));
                orders.mark(Mark::Hold(epoch));
            }
            TaskCommand::Resume | TaskCommand::Stop => self.gate.hold_back(None),
            TaskCommand::EndLoop { id: ended } if ended == *id => {
                if let Some(looped) = &self.state.looped {
                    looped.watch.end();
                }
                orders.mark(Mark::End);
            }
            TaskCommand::CloseLoop { id: unwanted } if unwanted == *id => self.close(),
            TaskCommand::CutLoop { id: cut } if cut == *id && !self.ended && !self.closed => {
                orders.mark(Mark::End);
                self.state.cut_short();
                let thrown = self.gate.close_loop(CloseAs::Refused);
                self.refused(thrown);
            }
            _ => {}
        }
    }

    fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.drop_rest();
            let thrown = self.gate.close(CloseAs::Refused);
            self.refused(thrown);
        }
    }

    fn settle(&mut self, ending: Ending) {
        if ending == Ending::Discarded {
            self.drop_rest();
            let thrown = self.gate.close(CloseAs::Discarded);
            self.refused(thrown);
        }
        self.gate.release(None);
        let mut accounts = self.gate.accounts();
        // A batch in slices was booked as received with its lane; what was never handed on moves over.
        if let Some((lane, items)) = self.cut.take() {
            accounts[lane].received -= items;
            match ending {
                Ending::Drained => accounts[lane].refused += items,
                Ending::Discarded => accounts[lane].discarded += items,
            }
        }
        for (channel, account) in self.channels.iter().zip(accounts) {
            self.state.report_received(*channel, account);
        }
    }

    fn queued(&self) -> usize {
        self.gate.queued()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::channel::LaneLimits;

    /// What a timer or a call gave out behind the last flush did not count, and the task was at rest.
    #[test]
    fn a_batch_in_the_making_is_owed() {
        let mut lane = OutLane::new(0, Gate::new(LaneLimits { batches: 1, bytes: 1 }).add_lane());
        assert!(!lane.owes());
        lane.buffer.push(1);
        assert!(lane.owes());
        lane.close();
        assert!(!lane.owes(), "nobody waits for it");
    }
}
