//! Several streams, each of a type of its own, read by one operator.

use std::{cell::RefCell, fmt, rc::Rc};

use crate::{
    dataplane::chain::BoxStage,
    flow::{
        graph::Blueprint,
        operator::{Expand, Map},
        stream::{Exchange, Stream},
    },
    job::{BuildRefusal, Parallelism},
};

/// Whether a stream is of this flow; else the flow is refused.
pub(super) fn check<T: Send + 'static>(operator: &str, blueprint: &Rc<RefCell<Blueprint>>, stream: &Stream<T>) {
    if !Rc::ptr_eq(blueprint, stream.blueprint()) {
        blueprint.borrow_mut().refuse(BuildRefusal::ForeignStream { operator: operator.to_owned() });
    }
}

/// What is to be known of an input.
struct Input {
    parallelism: usize,
    said: Parallelism,
    is_keyed: bool,
    is_copied: bool,
}

impl Input {
    fn of<T: Send + 'static>(stream: &Stream<T>) -> Self {
        let (is_keyed, is_copied) = (stream.is_keyed(), stream.is_copied());
        Self { parallelism: stream.parallelism(), said: stream.said(), is_keyed, is_copied }
    }
}

/// As many instances as the widest of the inputs. But those that were dealt out by key stay where they are, because the operator
/// may count on equal keys of two inputs meeting in one instance; so they have to be of one parallelism. And of what each
/// instance was given all of, no instance is to get a part, or some of it twice. Its number is one that somebody worked out, often
/// from that of the job, so here today's number counts.
fn instances(blueprint: &RefCell<Blueprint>, inputs: &[Input]) -> Parallelism {
    let refuse = |left, right| {
        let operator = "connect".to_owned();
        blueprint.borrow_mut().refuse(BuildRefusal::UnequalParallelism { operator, left, right });
    };
    let mut keyed = inputs.iter().filter(|input| input.is_keyed);
    let mut copied = inputs.iter().filter(|input| input.is_copied);
    let Some(first) = keyed.next().or_else(|| copied.next()) else {
        return inputs.iter().map(|input| input.said).reduce(Parallelism::widest).unwrap_or(Parallelism::Fixed(1));
    };
    if let Some(other) = keyed.find(|other| other.said != first.said) {
        refuse(first.said, other.said);
    }
    if let Some(other) = copied.find(|other| other.parallelism != first.parallelism) {
        refuse(first.said, other.said);
    }
    first.said
}

/// Ends a stream in the exchange as input `wrap` of several.
fn feed<T, I>(exchange: &mut Exchange<I>, stream: Stream<T>, wrap: fn(T) -> I)
where
    T: Send + 'static,
    I: Send + 'static,
{
    let stream = stream
        .then("connect", move |_| Box::new(move |meter, next| Box::new(Map::new(meter, wrap, next)) as BoxStage<T>));
    exchange.add_balanced(stream, "connect");
}

macro_rules! connected {
    ($words:literal, $Connected:ident, $Item:ident: $($Input:ident $input:ident $F:ident $f:ident),+) => {
        #[doc = concat!($words, " streams, numbered in the order in which they were connected, about to be read by one operator.")]
        ///
        /// Each input keeps its order; how they interleave is not defined. The operator's input ends when all of them have ended:
        /// no input's end cuts another short. Nothing is kept of the items but what the closures keep in the state, which each
        /// instance has for itself. Streams of different flows refuse the flow. It costs a channel for each input and instance.
        ///
        /// The operator has as many instances as the widest of its inputs, whose items it takes instance by instance; those of an
        /// input that has fewer are dealt out in turn, as [`union`](Stream::union) does. What was brought together by key, as by
        /// [`entries`](crate::KeyedStream::entries) or a fold by key, is never moved: the operator has as many instances as such an
        /// input, and equal keys of two of them meet in one. So two of them have to be of equal parallelism, whatever that of the
        /// job is, else the flow is refused. Neither are the copies of [`broadcast`](Stream::broadcast), so that each instance
        /// has one of each item: the operator has as many instances as they, and another number for what came together by key
        /// refuses the flow.
        #[must_use = "a stream that nothing consumes refuses the flow"]
        pub struct $Connected<$($Input),+> {
            $($input: Stream<$Input>),+
        }

        impl<$($Input),+> fmt::Debug for $Connected<$($Input),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($Connected)).finish_non_exhaustive()
            }
        }

        enum $Item<$($Input),+> {
            $($Input($Input)),+
        }

        impl<$($Input: Send + 'static),+> $Connected<$($Input),+> {
            /// Each item made into another, by the closure of its input; all of them share a state, which starts as a clone
            /// of `state` in each instance. Results come out at once, in the order in which the items came in.
            pub fn co_map<S, U, $($F),+>(self, state: S, $($f: $F),+) -> Stream<U>
            where
                S: Clone + Send + 'static,
                U: Send + 'static,
                $($F: FnMut(&mut S, $Input) -> U + Clone + Send + 'static),+
            {
                self.merged().then("co_map", move |_| {
                    let mut state = state.clone();
                    $(let mut $f = $f.clone();)+
                    let f = move |item| match item {
                        $($Item::$Input(item) => $f(&mut state, item)),+
                    };
                    Box::new(move |meter, next| Box::new(Map::new(meter, f, next)) as BoxStage<$Item<$($Input),+>>)
                })
            }

            /// Each item made into any number of others, which the closure of its input pushes into a buffer; all of them
            /// share a state, which starts as a clone of `state` in each instance. Results come out at once, in the order in
            /// which the items came in; those of one item are made at once, in memory.
            pub fn co_flat_map<S, U, $($F),+>(self, state: S, $($f: $F),+) -> Stream<U>
            where
                S: Clone + Send + 'static,
                U: Send + 'static,
                $($F: FnMut(&mut S, $Input, &mut Vec<U>) + Clone + Send + 'static),+
            {
                self.merged().then("co_flat_map", move |_| {
                    let mut state = state.clone();
                    $(let mut $f = $f.clone();)+
                    let f = move |item, out: &mut Vec<U>| {
                        match item {
                            $($Item::$Input(item) => $f(&mut state, item, out)),+
                        }
                        Ok(())
                    };
                    Box::new(move |meter, next| Box::new(Expand::new(meter, f, next)) as BoxStage<$Item<$($Input),+>>)
                })
            }

            fn merged(self) -> Stream<$Item<$($Input),+>> {
                let blueprint = Rc::clone(self.first.blueprint());
                $(check("connect", &blueprint, &self.$input);)+
                let inputs = [$(Input::of(&self.$input)),+];
                let mut exchange = Exchange::begin(&blueprint, instances(&blueprint, &inputs));
                if inputs.iter().all(|input| input.is_keyed) {
                    exchange.is_dealt_by_key();
                }
                $(feed(&mut exchange, self.$input, $Item::$Input);)+
                exchange.finish()
            }
        }
    };
}

connected!("Two", Connected2, Of2: A first F0 f0, B second F1 f1);
connected!("Three", Connected3, Of3: A first F0 f0, B second F1 f1, C third F2 f2);
connected!("Four", Connected4, Of4: A first F0 f0, B second F1 f1, C third F2 f2, D fourth F3 f3);

impl<A: Send + 'static> Stream<A> {
    /// Connects another stream, of any type, to be read by one operator together with this one: this one's items are those of
    /// the first input, the other's of the second.
    ///
    /// ```
    /// use proscenium::{LocalEnvironment, job_fn};
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = env.submit(job_fn("priced", |flow| {
    ///     let rates = flow.from_batch([2.0f64]);
    ///     let amounts = flow.from_batch(1..=3u32);
    ///     // What comes before the rate waits for it.
    ///     rates
    ///         .connect(amounts)
    ///         .co_flat_map(
    ///             (None, Vec::new()),
    ///             |(rate, waiting), new, out| {
    ///                 *rate = Some(new);
    ///                 out.extend(waiting.drain(..).map(|amount: u32| f64::from(amount) * new));
    ///             },
    ///             |(rate, waiting), amount, out| match *rate {
    ///                 Some(rate) => out.push(f64::from(amount) * rate),
    ///                 None => waiting.push(amount),
    ///             },
    ///         )
    ///         .collect("prices");
    ///     Ok(())
    /// }));
    /// let job = job.autostop(true).blocking()?;
    /// assert_eq!(job.output::<f64>("prices").blocking()?, [2.0, 4.0, 6.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect<B: Send + 'static>(self, other: Stream<B>) -> Connected2<A, B> {
        Connected2 { first: self, second: other }
    }
}

impl<A, B> Connected2<A, B> {
    /// Connects a third stream.
    pub fn connect<C: Send + 'static>(self, other: Stream<C>) -> Connected3<A, B, C> {
        Connected3 { first: self.first, second: self.second, third: other }
    }
}

impl<A, B, C> Connected3<A, B, C> {
    /// Connects a fourth stream. For more than four, map some into one type and [`union`](Stream::union) them.
    pub fn connect<D: Send + 'static>(self, other: Stream<D>) -> Connected4<A, B, C, D> {
        Connected4 { first: self.first, second: self.second, third: self.third, fourth: other }
    }
}
