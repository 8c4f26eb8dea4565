//! Where streams end: closures, sinks, outputs.

use std::fmt::Display;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    dataplane::{error::TaskError, wiring::OutputId},
    flow::{
        graph::OutputPlan,
        sink::{ForEach, OutputStage, Sink, SinkStage},
        stream::Stream,
        text::LineSink,
    },
    job::BuildRefusal,
    port::OutputKind,
    schema::TypeDescription,
};

impl<T: Send + 'static> Stream<T> {
    /// Gives every item to a closure. If the job [begins anew](crate::Restart), the closure sees items again.
    pub fn for_each<F>(self, f: F)
    where
        F: FnMut(T) + Clone + Send + 'static,
    {
        self.end("for_each", move |_| {
            let mut f = f.clone();
            let f = move |item| {
                f(item);
                Ok(())
            };
            Box::new(move |meter| Box::new(ForEach::new(meter, f)))
        });
    }

    /// Gives every item to a closure that may fail.
    pub fn try_for_each<F>(self, f: F)
    where
        F: FnMut(T) -> Result<(), TaskError> + Clone + Send + 'static,
    {
        self.end("try_for_each", move |_| {
            let f = f.clone();
            Box::new(move |meter| Box::new(ForEach::new(meter, f)))
        });
    }

    /// Writes the items to a [`Sink`]; `make` makes one for each instance, in its task.
    pub fn sink<S, F>(self, make: F)
    where
        S: Sink<Item = T>,
        F: FnOnce() -> S + Clone + Send + 'static,
    {
        self.end("sink", move |_| {
            let make = make.clone();
            Box::new(move |meter| {
                meter.enter();
                Box::new(SinkStage::new(meter, make()))
            })
        });
    }

    /// Writes each item as a line to standard output. Lines of parallel instances interleave.
    pub fn print(self)
    where
        T: Display,
    {
        self.end("print", |_| Box::new(|meter| Box::new(SinkStage::new(meter, LineSink::<T>::stdout()))));
    }

    /// Keeps the items as the job's output `name`, which can be read any number of times once all tasks have ended
    /// well, until the job is deleted. Held in memory up to `Limits::output_memory_bytes`, then on disk; beyond
    /// `Limits::output_bytes_max` encoded bytes the job fails.
    ///
    /// If the job [begins anew](crate::Restart), the output has the items of the last attempt alone.
    ///
    /// Order: that of each instance; instances interleave.
    pub fn collect(self, name: &str)
    where
        T: Serialize + DeserializeOwned,
    {
        self.output("collect", OutputKind::Collected, name);
    }

    /// Hands the items to the one reader of the job's output `name` as they come. At most `Limits::port_items` wait;
    /// then the job waits for the reader. Each other worker process that writes to it has as many
    /// more at most, which wait or are on their way.
    ///
    /// If the job [begins anew](crate::Restart), the items come from the beginning again, which the reader is told by
    /// [`OutputError::BegunAnew`](crate::OutputError::BegunAnew).
    pub fn stream_out(self, name: &str)
    where
        T: Serialize + DeserializeOwned,
    {
        self.output("stream_out", OutputKind::Streamed, name);
    }

    fn output(self, kind: &'static str, output: OutputKind, name: &str)
    where
        T: Serialize + DeserializeOwned,
    {
        let id = {
            let mut blueprint = self.blueprint.borrow_mut();
            if blueprint.outputs.iter().any(|existing| existing.name == name) {
                blueprint.refuse(BuildRefusal::DuplicateOutput { output: name.to_owned() });
            }
            let id = OutputId(blueprint.outputs.len());
            let description = TypeDescription::of::<T>();
            blueprint.outputs.push(OutputPlan { name: name.to_owned(), kind: output, description });
            blueprint.chains[self.chain].outputs.push(name.to_owned());
            id
        };
        self.end(kind, move |_| {
            Box::new(move |meter| {
                let output = meter.task.wiring.output(id);
                Box::new(OutputStage::new(meter, output))
            })
        });
    }
}
