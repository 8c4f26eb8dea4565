//! The end of a chain that hands items to other tasks, and the head that receives them there.

use std::{
    hash::Hash,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

pub(crate) use crate::dataplane::lane::{OutLane, Weigh};
use crate::{
    dataplane::{
        chain::{BoxStage, Ending, Failure, Lull, Meter, Reach, Stage, TaskState},
        channel::{CloseAs, EncodedBatch, Gate, GateReceiver, LaneSender, Place, Taken},
        hash::{KEY_GROUPS, hash_of, instance_of},
        lane::Out,
        mark::Mark,
        task::{Head, Input},
    },
    job::FailureCause,
    protocol::{LoopId, TaskCommand, Wait},
    service::bound_to,
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
        let (batch_items, operator) = (task.limits.batch_items, meter.name().to_owned());
        let out = Out { task, operator, weigh, batch_items };
        Box::new(Self { meter, route, lanes, out, registered: false })
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
            if lane.closed || (self.registered && !lane.is_blocked()) {
                continue;
            }
            // Registered before the last look, so that credit coming back in between is not missed. The first poll
            // registers every lane: a consumer that closes its gate must be able to wake a source that has nothing.
            if lane.register(cx) {
                lane.close();
            }
            lane.push(&self.out, false)?;
            blocked |= lane.is_blocked();
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
                lane.hold_batch();
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
            let sent = lane.settle(ending == Ending::Discarded);
            self.meter.task.report_sent(lane.channel, sent);
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

    /// Puts a batch into the empty `into`, or as much of it as the task takes in one step.
    fn hand_out(&mut self, batch: Vec<T>, into: &mut Vec<T>, max: usize) -> Input {
        if batch.len() <= max {
            *into = batch;
            return Input::Items;
        }
        let mut rest = batch.into_iter();
        into.extend(rest.by_ref().take(max));
        self.rest = Some(rest);
        Input::Items
    }

    /// Decodes what came from another worker.
    fn decode(&mut self, batch: EncodedBatch<T>) -> Result<Vec<T>, Failure> {
        let (items, peer) = (batch.items(), batch.peer());
        bound_to(self.state.context.directory.resolver(), || batch.decode()).map_err(|error| {
            let lane = self.gate.lane_in_hand();
            self.cut = lane.map(|lane| (lane, items));
            let channel = lane.and_then(|lane| self.channels.get(lane).copied()).unwrap_or_default();
            let operator = self.state.operators.first().map(|operator| operator.name.clone()).unwrap_or_default();
            let message = format!("an item of worker {peer} (channel {channel}) cannot be decoded: {error}");
            let instance = self.state.context.instance();
            FailureCause::Operator { operator, instance, position: 0, message }.into()
        })
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
            Poll::Ready(Taken::Encoded(batch)) => {
                let batch = self.decode(batch)?;
                Poll::Ready(Ok(self.hand_out(batch, into, max)))
            }
            Poll::Ready(Taken::Batch(batch)) => {
                if self.is_looping()
                    && let Some(looped) = &self.state.looped
                {
                    looped.received();
                }
                Poll::Ready(Ok(self.hand_out(batch, into, max)))
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
