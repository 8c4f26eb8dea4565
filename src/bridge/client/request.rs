//! A question and its reply. It is asked again over a new connection: questions change nothing, and orders are such that
//! to give one twice is to give it once.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    hold::Hold,
    send::send,
    state::{Attachment, Exchange, Heard, RESTARTED, Shared, Why},
};
use crate::{
    bridge::{
        connection::Violation,
        message::{FromClient, FromNode},
    },
    job::{HeldBy, JobId},
    link::{JobRequest, Refusal, Reply, Request, Residence},
};

pub(super) struct Question {
    id: u64,
    shared: Weak<Shared>,
    what: FromClient,
    job: Option<JobId>,
    state: Mutex<State>,
}

struct State {
    reply: Option<oneshot::Sender<Result<Reply, Refusal>>>,
    /// The start of the node which it was last sent to.
    sent_to: Option<u128>,
    attachment: Option<Arc<Attachment>>,
}

/// A question that was asked. Dropping it tells the node that nobody waits for the reply.
pub(super) struct Asked {
    pub reply: oneshot::Receiver<Result<Reply, Refusal>>,
    id: u64,
    shared: Weak<Shared>,
    question: Arc<Question>,
    _room: OwnedSemaphorePermit,
}

impl Question {
    pub(super) fn ask(shared: &Arc<Shared>, what: FromClient, job: Option<JobId>, room: OwnedSemaphorePermit) -> Asked {
        let (tx, reply) = oneshot::channel();
        let state = State { reply: Some(tx), sent_to: None, attachment: None };
        let id = shared.next_id();
        let question = Arc::new(Self { id, shared: Arc::downgrade(shared), what, job, state: Mutex::new(state) });
        shared.begin(id, &(Arc::clone(&question) as Arc<dyn Exchange>));
        Asked { reply, id, shared: Arc::downgrade(shared), question, _room: room }
    }

    /// Where the job lives that this question opened, and what keeps it readable there.
    fn residence(&self) -> Residence {
        let attachment = self.state.lock().attachment.clone();
        let (Some(attachment), Some(shared)) = (attachment, self.shared.upgrade()) else { return Residence::default() };
        let Some(job) = self.job else { return Residence::default() };
        let born = attachment.incarnation;
        let by = match &self.what {
            FromClient::Submit { options, .. } => options.by.clone(),
            FromClient::Ask(Request::Job { request: JobRequest::Open { by }, .. }) => by.clone(),
            // Nothing else opens a job.
            _ => HeldBy::default(),
        };
        let hold = Hold::begin(&shared, self.id, job, by, &attachment);
        Residence::elsewhere(move || {
            let _ = &hold;
            let now = shared.incarnation();
            (now != born).then(|| RESTARTED.to_owned())
        })
    }

    /// Whether it may have been done what it asks for, once it was sent.
    fn changes_something(&self) -> bool {
        match &self.what {
            FromClient::Ask(Request::Job { request, .. }) => {
                matches!(request, JobRequest::Control(_) | JobRequest::DeleteJob { .. })
            }
            FromClient::Ask(request) => matches!(request, Request::Cleanup),
            FromClient::ListKeys => false,
            _ => true,
        }
    }

    fn answer(&self, answer: Result<Reply, Refusal>) {
        let reply = self.state.lock().reply.take();
        if let Some(reply) = reply {
            // Whoever asked may have gone.
            let _ = reply.send(answer);
        }
    }
}

impl Exchange for Question {
    fn attach(&self, id: u64, attachment: &Arc<Attachment>) {
        let mut state = self.state.lock();
        if state.reply.is_none() || state.attachment.as_ref().is_some_and(|a| a.generation >= attachment.generation) {
            return;
        }
        let elsewhere = state.sent_to.is_some_and(|node| node != attachment.incarnation);
        if let (FromClient::Submit { id, .. }, true) = (&self.what, elsewhere) {
            // To run on this node what may have run on the one before is not what was asked for.
            let message = format!("the node was restarted before it answered whether it runs {id}");
            drop(state);
            return self.answer(Err(Refusal::FateUnknown { message }));
        }
        state.sent_to = Some(attachment.incarnation);
        state.attachment = Some(Arc::clone(attachment));
        drop(state);
        send(&attachment.outbound, id, &self.what);
    }

    fn detach(&self, generation: u64) {
        let mut state = self.state.lock();
        if state.attachment.as_ref().is_some_and(|attachment| attachment.generation <= generation) {
            state.attachment = None;
        }
    }

    fn fail(&self, why: &Why) {
        let mut sent = self.state.lock().sent_to.is_some();
        if let Why::Revoked(_) = why {
            // The answer to a mere question is that nobody who has this key may ask.
            sent &= self.changes_something();
        }
        // A job that was being submitted is not known to have been.
        let job = self.job.filter(|_| !matches!(self.what, FromClient::Submit { .. }));
        self.answer(Err(why.refusal(job, sent)));
    }

    fn hear(&self, message: FromNode) -> Result<Heard, Violation> {
        match message {
            FromNode::Reply(mut reply) => {
                if let Ok(Reply::Opened(opened)) = &mut reply {
                    opened.residence = self.residence();
                }
                self.answer(reply);
                Ok(Heard::Over)
            }
            other => Err(Violation::new(format_args!("{other:?} does not answer a question"))),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        shared.end(self.id);
        let mut state = self.question.state.lock();
        // Once it is answered, the number stands for the handle that came of it.
        let unanswered = state.reply.take().is_some();
        let attachment = state.attachment.take().filter(|_| unanswered);
        drop(state);
        if let Some(attachment) = attachment {
            send(&attachment.outbound, self.id, &FromClient::Forget);
        }
    }
}
