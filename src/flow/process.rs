//! A process: user code with a state, timers and side outputs for each key.

mod clock;
mod context;
mod keys;
mod side;
mod stage;

use std::{cell::RefCell, fmt, hash::Hash, rc::Rc, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

pub use self::{context::ProcessContext, side::SideOutputError};
use self::{
    side::{Side, SideChain},
    stage::{EndHook, Hooks, ItemHook, ProcessStage, Settings, TimerHook},
};
use crate::{
    dataplane::{
        chain::{BoxStage, Meter, Recipe, StageFactory},
        error::TaskError,
    },
    flow::{
        keyed::KeyedStream,
        stream::{Junction, Stream},
    },
    job::BuildRefusal,
    timestamp::Timestamp,
};

/// A process for each key, in the making; [`KeyedStream::process`] begins one. It ends in [`stream`](Self::stream), without
/// which the flow is refused.
#[must_use = "a process whose stream is not taken refuses the flow"]
pub struct Process<K, T, S, U> {
    stream: Stream<U>,
    plan: Rc<RefCell<Plan<K, T, S, U>>>,
}

impl<K, T, S, U> fmt::Debug for Process<K, T, S, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// Makes the same closure for each instance.
type Each<H> = Box<dyn Fn() -> H>;

/// What the process is made of, and the chains behind it as far as they are complete.
struct Plan<K, T, S, U> {
    junction: Junction<(K, T)>,
    kind: &'static str,
    /// Taken when it is attached.
    item: Option<Each<ItemHook<K, T, S, U>>>,
    timer: Option<Each<TimerHook<K, S, U>>>,
    end: Option<Each<EndHook<K, S, U>>>,
    time_to_live: Option<Duration>,
    copy: Option<fn(&S) -> S>,
    sides: Vec<SidePlan>,
    main: Option<StageFactory<U>>,
}

/// Makes the recipe of the side output of the instance of this number.
type SideFactory = Box<dyn Fn(usize) -> Recipe<Box<dyn Side>>>;

struct SidePlan {
    name: Arc<str>,
    chain: Option<SideFactory>,
}

impl<K, T, S, U> Process<K, T, S, U>
where
    K: Hash + Eq + Send + 'static,
    T: Send + 'static,
    S: Default + Send + 'static,
    U: Send + 'static,
{
    /// A process behind `stream`, which has each key on one instance. Without `copy` no item is skipped.
    pub(crate) fn new<F>(stream: Stream<(K, T)>, kind: &'static str, copy: Option<fn(&S) -> S>, f: F) -> Self
    where
        F: FnMut(&mut ProcessContext<'_, U>, &K, T, &mut S) -> Result<(), TaskError> + Clone + Send + 'static,
    {
        let plan = Plan {
            junction: stream.junction(kind),
            kind,
            item: Some(Box::new(move || Box::new(f.clone()))),
            timer: None,
            end: None,
            time_to_live: None,
            copy,
            sides: Vec::new(),
            main: None,
        };
        let plan = Rc::new(RefCell::new(plan));
        let shared = Rc::clone(&plan);
        let stream = plan.borrow().junction.branch(move |next| complete(&shared, |plan| plan.main = Some(next)));
        Self { stream, plan }
    }

    /// What is done when a timer fires: `on_timer(ctx, key, at, state)`, where `at` is the time it was set for. Without it
    /// timers fire to no effect.
    ///
    /// Timers go by [`ProcessContext::now`], which says what happens when the machine's clock is set, and not by anything
    /// in the items. They fire without another item, not before their time, in the order of their times, those of one time
    /// in the order in which they were set; of one key and one time there is one. If many are due they take turns with the
    /// items. While the job is paused none fires; what is due by then fires when it is resumed. At the end of the input all
    /// that are set fire at once, in the same order; from then on no new timer can be set.
    ///
    /// A timer that fails or panics fails the job at item 0, or is a dead letter under *skip*.
    pub fn on_timer<F>(self, f: F) -> Self
    where
        F: FnMut(&mut ProcessContext<'_, U>, &K, Timestamp, &mut S) -> Result<(), TaskError> + Clone + Send + 'static,
    {
        self.plan.borrow_mut().timer = Some(Box::new(move || Box::new(f.clone())));
        self
    }

    /// What is done at the end of the input, when the timers have fired: once for each key that has a state, in no
    /// particular order. No timer set here fires. It is not called if nothing downstream wants more.
    pub fn on_end<F>(self, f: F) -> Self
    where
        F: FnMut(&mut ProcessContext<'_, U>, &K, &mut S) -> Result<(), TaskError> + Clone + Send + 'static,
    {
        self.plan.borrow_mut().end = Some(Box::new(move || Box::new(f.clone())));
        self
    }

    /// Drops the state of a key that no item or timer has touched for so long. Its memory is released also if nothing comes
    /// in any more; `on_end` is not called for it, its timers stay, and a key seen again starts with the default. A timer
    /// set as far ahead as the time to live still finds the state. Time goes on while the job is paused, but nothing is
    /// released meanwhile. It costs a reading of the clock for each item.
    pub fn time_to_live(self, limit: Duration) -> Self {
        self.plan.borrow_mut().time_to_live = Some(limit);
        self
    }

    /// A stream beside that of the results, of items of a type of its own, which
    /// [`ProcessContext::emit_to`] puts there by `name`. It keeps their order; one that is never read holds the process up
    /// once it is full. It has to be consumed like any stream. A name used twice refuses the flow.
    pub fn side_output<V: Send + 'static>(&mut self, name: &str) -> Stream<V> {
        let mut plan = self.plan.borrow_mut();
        if plan.sides.iter().any(|side| &*side.name == name) {
            let refusal =
                BuildRefusal::DuplicateSideOutput { operator: plan.kind.to_owned(), side_output: name.to_owned() };
            plan.junction.blueprint().borrow_mut().refuse(refusal);
        }
        let (name, at): (Arc<str>, usize) = (name.into(), plan.sides.len());
        plan.sides.push(SidePlan { name: Arc::clone(&name), chain: None });
        let shared = Rc::clone(&self.plan);
        plan.junction.branch(move |next: StageFactory<V>| {
            let chain = move |instance| {
                let (name, next) = (Arc::clone(&name), next(instance));
                Box::new(move |task: &Rc<_>| Box::new(SideChain::new(name, next(task))) as Box<dyn Side>)
                    as Recipe<Box<dyn Side>>
            };
            complete(&shared, |plan| plan.sides[at].chain = Some(Box::new(chain)));
        })
    }

    /// The results, in the order in which they are made.
    pub fn stream(self) -> Stream<U> {
        self.stream
    }
}

/// One of the chains behind is complete. With the last one, the process is attached to what is in front of it.
fn complete<K, T, S, U>(plan: &RefCell<Plan<K, T, S, U>>, chain: impl FnOnce(&mut Plan<K, T, S, U>))
where
    K: Hash + Eq + Send + 'static,
    T: Send + 'static,
    S: Default + Send + 'static,
    U: Send + 'static,
{
    let mut this = plan.borrow_mut();
    chain(&mut this);
    // The results' chain can be complete only when the process is, and then no side output is added any more.
    if this.main.is_none() || this.sides.iter().any(|side| side.chain.is_none()) {
        return;
    }
    let (main, item, attach) = (this.main.take(), this.item.take(), this.junction.take_attach());
    let (Some(main), Some(item), Some(attach)) = (main, item, attach) else { return };
    let operator = this.junction.operator;
    let sides: Vec<_> = std::mem::take(&mut this.sides).into_iter().filter_map(|side| side.chain).collect();
    let (timer, end) = (this.timer.take(), this.end.take());
    let (time_to_live, copy) = (this.time_to_live, this.copy);
    drop(this);
    attach(Box::new(move |instance| {
        let timer = timer.as_ref().map(|timer| timer());
        let hooks = Hooks { item: item(), timer, end: end.as_ref().map(|end| end()) };
        let settings = Settings { time_to_live, copy };
        let sides: Vec<_> = sides.iter().map(|side| side(instance)).collect();
        let next = main(instance);
        Box::new(move |task| {
            let sides = sides.into_iter().map(|side| side(task)).collect();
            let stage = ProcessStage::new(Meter::new(task, operator), hooks, settings, sides, next(task));
            Box::new(stage) as BoxStage<(K, T)>
        })
    }));
}

impl<K, T> KeyedStream<K, T>
where
    K: Hash + Eq + Serialize + DeserializeOwned + Send + 'static,
    T: Serialize + DeserializeOwned + Send + 'static,
{
    /// A process for each key: `f(ctx, key, item, state)` is called for each item, may change the state, and through `ctx`
    /// passes on any number of results, sets timers, and writes side outputs. What is done when a timer fires, at the end of
    /// the input, and with idle keys, is said by the methods of [`Process`].
    ///
    /// The state of a key starts as `S::default()`. It may be a plain value, a `Vec` (a list of what was seen), or a map.
    /// It lives in memory, from the key's first item until [`ProcessContext::clear_state`], its
    /// [time to live](Process::time_to_live) or the end of the input.
    ///
    /// Order: equal keys meet on one instance, and the items of a key are taken in the order in which each upstream instance
    /// had them. Results come out at once, in the order in which they are made; those of one step are held in memory until
    /// it is done.
    ///
    /// A step that returns an error or panics fails the job. Under *skip* it is a dead letter, its results are withdrawn, and
    /// the state and the timers of its key are as before; for that each step works on a clone of the state.
    ///
    /// It costs the exchange and a look into a table for each item, and a logarithm of their number for each timer.
    ///
    /// ```
    /// use proscenium::{LocalEnvironment, job_fn};
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = env.submit(job_fn("totals", |flow| {
    ///     let amounts = flow.from_batch([("ann", 10), ("bob", 5), ("ann", -1), ("bob", 100)].map(|(k, n)| (k.to_owned(), n)));
    ///     let mut totals = amounts
    ///         .key_by(|(user, _)| user.clone())
    ///         .process(|ctx, user: &String, (_, amount), (count, total): &mut (u64, i64)| {
    ///             if amount < 0 {
    ///                 ctx.emit_to("refused", (user.clone(), amount))?;
    ///                 return Ok(());
    ///             }
    ///             (*count, *total) = (*count + 1, *total + amount);
    ///             Ok(())
    ///         })
    ///         .on_end(|ctx, user, (count, total)| {
    ///             ctx.emit((user.clone(), *count, *total));
    ///             Ok(())
    ///         });
    ///     totals.side_output::<(String, i64)>("refused").collect("refused");
    ///     totals.stream().collect("totals");
    ///     Ok(())
    /// }));
    /// let job = job.autostop(true).blocking()?;
    /// let mut totals = job.output::<(String, u64, i64)>("totals").blocking()?;
    /// totals.sort();
    /// assert_eq!(totals, [("ann".to_owned(), 1, 10), ("bob".to_owned(), 2, 105)]);
    /// assert_eq!(job.output::<(String, i64)>("refused").blocking()?, [("ann".to_owned(), -1)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A list as the state, and a timer that closes it when nothing has come for a while:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proscenium::{LocalEnvironment, job_fn};
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = env.submit(job_fn("sessions", |flow| {
    ///     flow.from_batch(1..=6u32)
    ///         .key_by(|n| n % 2)
    ///         .process(|ctx, _, n, session: &mut Vec<u32>| {
    ///             session.push(n);
    ///             ctx.cancel_timers();
    ///             ctx.fire_after(Duration::from_secs(30));
    ///             Ok(())
    ///         })
    ///         .on_timer(|ctx, _, _, session| {
    ///             ctx.emit(std::mem::take(session));
    ///             Ok(())
    ///         })
    ///         .stream()
    ///         .collect("sessions");
    ///     Ok(())
    /// }));
    /// // At the end of the input the timers fire at once.
    /// let job = job.autostop(true).blocking()?;
    /// let mut sessions = job.output::<Vec<u32>>("sessions").blocking()?;
    /// sessions.sort();
    /// assert_eq!(sessions, [[1, 3, 5], [2, 4, 6]]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A map as the state:
    ///
    /// ```
    /// use std::collections::HashMap;
    ///
    /// use proscenium::{LocalEnvironment, job_fn};
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = env.submit(job_fn("words", |flow| {
    ///     flow.from_batch(["to", "be", "or", "not", "to", "be"].map(str::to_owned))
    ///         .key_by(|word| word.len())
    ///         .process(|ctx, _, word: String, seen: &mut HashMap<String, u32>| {
    ///             let times = seen.entry(word.clone()).or_default();
    ///             *times += 1;
    ///             if *times == 2 {
    ///                 ctx.emit(word);
    ///             }
    ///             Ok(())
    ///         })
    ///         .stream()
    ///         .collect("repeated");
    ///     Ok(())
    /// }));
    /// let job = job.autostop(true).blocking()?;
    /// assert_eq!(job.output::<String>("repeated").blocking()?, ["to", "be"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn process<S, U, F>(self, f: F) -> Process<K, T, S, U>
    where
        S: Default + Clone + Serialize + DeserializeOwned + Send + 'static,
        U: Send + 'static,
        F: FnMut(&mut ProcessContext<'_, U>, &K, T, &mut S) -> Result<(), TaskError> + Clone + Send + 'static,
    {
        Process::new(self.entries(), "process", Some(S::clone), f)
    }
}
