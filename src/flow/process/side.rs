//! Side outputs: streams of types of their own beside that of the results.

use std::{
    any::Any,
    sync::Arc,
    task::{Context, Poll},
};

use crate::dataplane::{
    chain::{BoxStage, Ending, Failure, Lull, Reach},
    mark::Mark,
};

/// Why an item could not be put into a side output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SideOutputError {
    /// The process has no side output of this name.
    #[error("there is no side output `{side_output}`; there are {}", .known.join(", "))]
    Unknown {
        /// The name that was asked for.
        side_output: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// The side output is one of items of another type.
    #[error("side output `{side_output}` holds `{holds}` and was given `{given}`")]
    WrongType {
        /// The name.
        side_output: String,
        /// The type of its items.
        holds: String,
        /// The type of the item it was given.
        given: String,
    },
}

/// A side output without the type of its items.
pub(super) trait Side {
    fn name(&self) -> &str;
    /// The `Vec` that holds what has not been passed on.
    fn items(&mut self) -> &mut dyn Any;
    fn item_type(&self) -> &'static str;
    /// From here on a step puts items in.
    fn begin(&mut self);
    /// Takes out again what came in since `begin`.
    fn withdraw(&mut self);
    fn is_full(&self, batch_items: usize) -> bool;
    /// Passes on what there is, and says whether there was anything.
    fn pass(&mut self) -> Result<bool, Failure>;
    fn mark(&mut self, mark: Mark) -> Result<(), Failure>;
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>>;
    fn flush(&mut self, lull: Lull) -> Result<(), Failure>;
    fn wants_more(&self, reach: Reach) -> bool;
    fn owes(&self) -> bool;
    fn settle(&mut self, ending: Ending);
}

/// A side output and the chain behind it.
pub(super) struct SideChain<V> {
    name: Arc<str>,
    items: Vec<V>,
    kept: usize,
    next: BoxStage<V>,
}

impl<V> SideChain<V> {
    pub fn new(name: Arc<str>, next: BoxStage<V>) -> Self {
        Self { name, items: Vec::new(), kept: 0, next }
    }
}

impl<V: 'static> Side for SideChain<V> {
    fn name(&self) -> &str {
        &self.name
    }

    fn items(&mut self) -> &mut dyn Any {
        &mut self.items
    }

    fn item_type(&self) -> &'static str {
        std::any::type_name::<V>()
    }

    fn begin(&mut self) {
        self.kept = self.items.len();
    }

    fn withdraw(&mut self) {
        self.items.truncate(self.kept);
    }

    fn is_full(&self, batch_items: usize) -> bool {
        self.items.len() >= batch_items
    }

    fn pass(&mut self) -> Result<bool, Failure> {
        // A branch that wants no more is spared, so that `take` on one side does not keep the other from ending.
        if !self.next.wants_more(Reach::Anywhere) {
            self.items.clear();
        }
        if self.items.is_empty() {
            return Ok(false);
        }
        self.next.batch(&mut self.items)?;
        Ok(true)
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
        self.next.mark(mark)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.next.poll(cx)
    }

    fn flush(&mut self, lull: Lull) -> Result<(), Failure> {
        self.next.flush(lull)
    }

    fn wants_more(&self, reach: Reach) -> bool {
        self.next.wants_more(reach)
    }

    fn owes(&self) -> bool {
        self.next.owes()
    }

    fn settle(&mut self, ending: Ending) {
        self.next.settle(ending);
    }
}

/// Puts an item into the side output of this name.
pub(super) fn put<V: 'static>(sides: &mut [Box<dyn Side>], name: &str, item: V) -> Result<(), SideOutputError> {
    let Some(at) = sides.iter().position(|side| side.name() == name) else {
        let known = sides.iter().map(|side| format!("`{}`", side.name())).collect::<Vec<_>>();
        let known = if known.is_empty() { vec!["none".to_owned()] } else { known };
        return Err(SideOutputError::Unknown { side_output: name.to_owned(), known });
    };
    let holds = sides[at].item_type();
    match sides[at].items().downcast_mut::<Vec<V>>() {
        Some(items) => {
            items.push(item);
            Ok(())
        }
        None => Err(SideOutputError::WrongType {
            side_output: name.to_owned(),
            holds: holds.to_owned(),
            given: std::any::type_name::<V>().to_owned(),
        }),
    }
}
