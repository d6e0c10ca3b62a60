//! Asks applications the questions of shards: a task on the outer thread, which drives the
//! [desks](crate::hooks).
//!
//! Questions are sent with HTTP, or over a link where the application has no `hook_url`.
//! Each request is a task of its own, and ends by its question's deadline, so a silent application
//! costs its own questions and nothing else. Shards get outcomes by mail ([`HookReplies`]).

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::client::{
    BackendClient, BodyFault, HttpFailure, HttpReply, REPLY_BYTES_MAX, SignedRequest,
};
use super::handshake::HandshakeView;
use super::hook_line::{HookLine, HookOrder, HookOrders};
use super::links::{BackendLink, LinkTable};
use super::settings::{BackendSettings, HookSettings};
use crate::hooks::{
    ConnectQuestion, FailureCause, HookAction, HookCall, HookDesk, HookKind, HookOutcome,
    HookQuestion, HookResult, HookTicket,
};
use crate::metrics::HookGauges;
use crate::outer::OuterThread;

/// Orders that are taken before results get their turn.
const ORDERS_AT_ONCE: usize = 256;
/// The interval at which numbers are published while questions are open.
const NUMBERS_INTERVAL: Duration = Duration::from_millis(250);

/// Failures are logged at most this often; success is logged so long after the last one.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
const RECOVERY_TIME: Duration = Duration::from_secs(1);
/// When a client may ask again where no application answers: a reload may bring one.
const NO_APPLICATION_RETRY_MS: u32 = 60_000;

/// Where outcomes go.
pub trait HookReplies: Send + Sync {
    /// Passes the outcome of a question to the connection that waits for it.
    fn reply(&self, ticket: HookTicket, kind: HookKind, outcome: HookOutcome);
}

/// The handle of the task, which ends with this and the line to it.
pub struct HookFlow {
    renewals: mpsc::UnboundedSender<Vec<Arc<BackendSettings>>>,
    line: HookLine,
    numbers: Arc<Mutex<Vec<HookGauges>>>,
}

impl HookFlow {
    /// Starts the task. `node` identifies the node in questions.
    ///
    /// # Errors
    /// When the host's authorities cannot be used.
    pub fn start(
        thread: &OuterThread,
        node: u32,
        backends: &[Arc<BackendSettings>],
        replies: Weak<dyn HookReplies>,
        links: Arc<LinkTable>,
    ) -> Result<Arc<Self>, String> {
        let instance = RandomState::new().hash_one("instance");
        let mut desks = Vec::new();
        for settings in backends {
            desks.push(Desk::new(settings, node, instance)?);
        }
        let (line, orders) = HookLine::new();
        let (renewals, renewed) = mpsc::unbounded_channel();
        let numbers = Arc::<Mutex<Vec<HookGauges>>>::default();
        let shared = numbers.clone();
        thread.spawn(move || {
            let asking = Asking {
                desks,
                replies,
                links,
                requests: JoinSet::new(),
                epoch: Instant::now(),
                numbers: shared,
                published: None,
            };
            asking.run(orders, renewed)
        });
        Ok(Arc::new(Self { renewals, line, numbers }))
    }

    /// Returns the shards' way to the task.
    pub fn line(&self) -> HookLine {
        self.line.clone()
    }

    /// Applies the settings of a reload: of the same applications, in the same order.
    pub fn renew(&self, backends: &[Arc<BackendSettings>]) {
        // Fails only when the process is ending.
        let _ = self.renewals.send(backends.to_vec());
    }

    /// Returns the numbers of all applications' questions.
    pub fn numbers(&self) -> Vec<HookGauges> {
        self.numbers.lock().map(|numbers| numbers.clone()).unwrap_or_default()
    }

    /// Returns the memory of questions and of cached answers (bytes).
    pub fn bytes(&self) -> u64 {
        let held = self
            .numbers()
            .iter()
            .map(|one| one.numbers.cache_bytes + one.numbers.held_bytes)
            .sum::<usize>();
        (self.line.bytes() + held) as u64
    }
}

/// One application.
struct Desk {
    client: Arc<BackendClient>,
    desk: HookDesk,
    /// When a failure was last logged, and when one last happened.
    logged: Option<Instant>,
    failed: Option<Instant>,
}

impl Desk {
    fn new(settings: &Arc<BackendSettings>, node: u32, instance: u64) -> Result<Self, String> {
        let client = BackendClient::new(settings.clone())
            .map_err(|error| format!("backend {}: {error}", settings.name))?;
        let limits = settings.hooks.as_ref().map(|hooks| hooks.limits).unwrap_or_default();
        let desk = HookDesk::new(limits, &settings.name, &format!("{node:08x}"), instance);
        Ok(Self { client: Arc::new(client), desk, logged: None, failed: None })
    }

    fn renew(&mut self, settings: &Arc<BackendSettings>) {
        let places = |settings: &BackendSettings| {
            let url = settings.hooks.as_ref().and_then(|hooks| hooks.url.clone());
            (url, settings.links.as_ref().map(|links| links.urls.clone()))
        };
        let before = places(self.client.settings());
        match BackendClient::new(settings.clone()) {
            Ok(client) => self.client = Arc::new(client),
            Err(error) => {
                let backend = &settings.name;
                return tracing::error!(backend, %error, "cannot apply the settings of a backend");
            }
        }
        if let Some(hooks) = &settings.hooks {
            self.desk.set_limits(hooks.limits);
        }
        if before != places(settings) {
            // Another application may answer differently.
            self.desk.forget_all();
        }
    }

    fn hooks(&self) -> Option<&HookSettings> {
        self.client.settings().hooks.as_ref()
    }

    /// Logs failures, but not each one of many, and the first success after them.
    fn log_result(&mut self, failure: Option<String>) {
        let backend = &self.client.settings().name;
        let is_recent = |at: &Instant, most| at.elapsed() < most;
        match failure {
            Some(failure) => {
                if !self.logged.is_some_and(|at| is_recent(&at, LOG_INTERVAL)) {
                    tracing::warn!(backend, %failure, "the backend does not answer a question");
                    self.logged = Some(Instant::now());
                }
                self.failed = Some(Instant::now());
            }
            None if self.failed.is_some_and(|at| !is_recent(&at, RECOVERY_TIME)) => {
                tracing::info!(backend, "the backend answers questions again");
                (self.failed, self.logged) = (None, None);
            }
            None => {}
        }
    }
}

/// Returns why a result is no answer, and what to do about it.
fn describe_failure(result: &Result<HttpReply, HttpFailure>) -> Option<String> {
    let status = match result {
        Ok(reply) => reply.status,
        Err(failure) => return Some(failure.to_string()),
    };
    let remedy = match status.as_u16() {
        200 | 204 => return None,
        300..=399 => ": redirects are not followed; write the final address in hook_url",
        401 | 403 => ": it rejects the signature; compare its secret with secret_files",
        404 | 405 => ": it takes no questions there; correct hook_url",
        _ => "",
    };
    Some(format!("status {status}{remedy}"))
}

/// A request that has ended.
struct Settled {
    backend: usize,
    call: HookCall,
    result: Result<HttpReply, HttpFailure>,
}

/// The task.
struct Asking {
    /// In the order of the configuration.
    desks: Vec<Desk>,
    /// Gone when the server ends.
    replies: Weak<dyn HookReplies>,
    links: Arc<LinkTable>,
    requests: JoinSet<Settled>,
    epoch: Instant,
    numbers: Arc<Mutex<Vec<HookGauges>>>,
    published: Option<Instant>,
}

impl Asking {
    async fn run(
        mut self,
        mut orders: HookOrders,
        mut renewals: mpsc::UnboundedReceiver<Vec<Arc<BackendSettings>>>,
    ) {
        loop {
            self.publish_numbers();
            let due = self.next_due();
            tokio::select! {
                order = orders.next_order() => match order {
                    None => return,
                    Some(order) => self.take_orders(order, &mut orders),
                },
                Some(settled) = self.requests.join_next() => {
                    // A panic of a request is one of the task: it is not caught.
                    self.settle(settled.expect("requests do not panic"));
                }
                Some(settings) = renewals.recv() => self.renew(&settings),
                () = tokio::time::sleep_until(due.into()) => self.expire(),
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// Returns when the next deadline is, or numbers are to be published.
    fn next_due(&self) -> Instant {
        let due_ms = self.desks.iter().filter_map(|one| one.desk.next_due_ms()).min();
        let is_busy = !self.requests.is_empty();
        // Without questions, only cached answers expire.
        let numbers = if is_busy { NUMBERS_INTERVAL } else { Duration::from_secs(10) };
        let numbers = Instant::now() + numbers;
        // Rounded up, because the desk's clock has whole milliseconds.
        due_ms.map_or(numbers, |due_ms| {
            numbers.min(self.epoch + Duration::from_millis(due_ms.saturating_add(1)))
        })
    }

    fn take_orders(&mut self, first: HookOrder, orders: &mut HookOrders) {
        let mut next = Some(first);
        for _ in 0..ORDERS_AT_ONCE {
            let Some(order) = next else { return };
            self.take(order);
            next = orders.take_order();
        }
        if let Some(order) = next {
            self.take(order);
        }
    }

    fn take(&mut self, order: HookOrder) {
        let now_ms = self.now_ms();
        let (backend, ticket, question) = match order {
            HookOrder::Connect { backend, ticket, head, address } => {
                let hooks = self.desks.get(usize::from(backend)).and_then(Desk::hooks);
                let headers = hooks.map_or(&[][..], |hooks| &hooks.headers);
                let HandshakeView { target, headers, .. } = HandshakeView::new(&head, headers);
                let question = ConnectQuestion { target, address, headers };
                (backend, ticket, HookQuestion::Connect(question))
            }
            HookOrder::Ask { backend, ticket, question } => (backend, ticket, question),
            HookOrder::Cancel { ticket } => {
                // One of them has it: which one, a reload may have made unknown to the shard.
                for backend in 0..self.desks.len() {
                    self.desks[backend].desk.cancel(ticket);
                    self.carry_out(backend);
                }
                return;
            }
            HookOrder::ForgetUser { user } => {
                return self.desks.iter_mut().for_each(|one| one.desk.forget_user(&user));
            }
        };
        match self.desks.get_mut(usize::from(backend)) {
            Some(one) if one.hooks().is_some() => {
                one.desk.ask(now_ms, ticket, question);
                self.carry_out(usize::from(backend));
            }
            _ => {
                let cause = FailureCause::NoApplication;
                let outcome = HookOutcome::unasked(&question, cause, NO_APPLICATION_RETRY_MS);
                reply(&self.replies, ticket, question.kind(), outcome);
            }
        }
    }

    /// Carries out what a desk wants.
    fn carry_out(&mut self, backend: usize) {
        let now_ms = self.now_ms();
        let one = &mut self.desks[backend];
        while let Some(action) = one.desk.next_action() {
            match action {
                HookAction::Send { call, id, body, deadline_ms } => {
                    let timeout = Duration::from_millis(deadline_ms.saturating_sub(now_ms));
                    let client = one.client.clone();
                    let is_posted = one.hooks().is_some_and(|hooks| hooks.url.is_some());
                    let link = (!is_posted).then(|| self.links.choose_any(backend as u8));
                    self.requests.spawn_local(async move {
                        let result = match link {
                            None => post(&client, &id, body, timeout).await,
                            Some(link) => ask(link, &body, timeout).await,
                        };
                        Settled { backend, call, result }
                    });
                }
                HookAction::Finish { ticket, kind, outcome, .. } => {
                    // A status that is no answer was logged before, except 204.
                    if let HookOutcome::Failed { cause, .. } = outcome
                        && matches!(cause, FailureCause::Malformed | FailureCause::Status)
                    {
                        let kind = kind.name();
                        let failure = format!(
                            "the answer to `{kind}` is invalid: it must have the status 200, and \
                             be an object with the fields of this question, of 64 KiB at most"
                        );
                        one.log_result(Some(failure));
                    }
                    reply(&self.replies, ticket, kind, outcome);
                }
            }
        }
    }

    fn settle(&mut self, settled: Settled) {
        let Settled { backend, call, result } = settled;
        let now_ms = self.now_ms();
        let one = &mut self.desks[backend];
        one.log_result(describe_failure(&result));
        one.desk.settle(now_ms, call, hook_result(result));
        self.carry_out(backend);
    }

    fn expire(&mut self) {
        let now_ms = self.now_ms();
        for backend in 0..self.desks.len() {
            self.desks[backend].desk.expire(now_ms);
            self.carry_out(backend);
        }
    }

    fn renew(&mut self, settings: &[Arc<BackendSettings>]) {
        for (backend, settings) in settings.iter().enumerate().take(self.desks.len()) {
            self.desks[backend].renew(settings);
            self.carry_out(backend);
        }
    }

    fn publish_numbers(&mut self) {
        let is_open = self.published.is_some_and(|at| at.elapsed() < NUMBERS_INTERVAL);
        if is_open && !self.requests.is_empty() {
            return;
        }
        self.published = Some(Instant::now());
        let numbers = self.desks.iter().filter(|one| one.hooks().is_some()).map(|one| HookGauges {
            backend: one.client.settings().name.clone(),
            numbers: one.desk.numbers(),
        });
        if let Ok(mut shared) = self.numbers.lock() {
            *shared = numbers.collect();
        }
    }
}

fn reply(
    replies: &Weak<dyn HookReplies>,
    ticket: HookTicket,
    kind: HookKind,
    outcome: HookOutcome,
) {
    if let Some(replies) = replies.upgrade() {
        replies.reply(ticket, kind, outcome);
    }
}

async fn post(
    client: &BackendClient,
    id: &str,
    body: Vec<u8>,
    timeout: Duration,
) -> Result<HttpReply, HttpFailure> {
    // The application was asked, so it had an address then; a reload may have removed it.
    let hooks = client.settings().hooks.as_ref();
    let Some(url) = hooks.and_then(|hooks| hooks.url.as_deref()) else {
        return Err(HttpFailure::NotSent("hook_url is not set any more".into()));
    };
    client.post(SignedRequest { url, id, body: &body.into(), timeout }).await
}

/// Asks over a link. The answer is as the body of a response with the status 200.
async fn ask(
    link: Option<Arc<BackendLink>>,
    body: &[u8],
    timeout: Duration,
) -> Result<HttpReply, HttpFailure> {
    let Some(link) = link else {
        return Err(HttpFailure::NotSent("no link to it is open".into()));
    };
    let answer = tokio::time::timeout(timeout, link.ask(body)).await;
    match answer {
        Err(_) => Err(HttpFailure::TimedOut),
        Ok(Err(_)) => Err(HttpFailure::Broken("the link was lost before the answer".into())),
        Ok(Ok(body)) => {
            let is_too_long = body.len() > REPLY_BYTES_MAX;
            let body = if is_too_long { Err(BodyFault::TooLong) } else { Ok(body.into()) };
            Ok(HttpReply { status: StatusCode::OK, body, date: None, retry_after: None })
        }
    }
}

fn hook_result(result: Result<HttpReply, HttpFailure>) -> HookResult {
    let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match result {
        // Without an answer, the body does not matter: an error page may be long.
        Ok(HttpReply { status, body, retry_after, .. }) => match body {
            _ if status != StatusCode::OK => HookResult::Response {
                status: status.as_u16(),
                body: Vec::new(),
                retry_after_s: retry_after.map(|after| after.as_secs().min(3600) as u32),
                unix_s,
            },
            Ok(body) => HookResult::Response {
                status: status.as_u16(),
                body: body.to_vec(),
                retry_after_s: retry_after.map(|after| after.as_secs().min(3600) as u32),
                unix_s,
            },
            Err(BodyFault::TooLong) => HookResult::TooLong,
            Err(BodyFault::Broken) => HookResult::Broken,
            Err(BodyFault::TimedOut) => HookResult::TimedOut,
        },
        Err(HttpFailure::NotSent(_)) => HookResult::NotSent,
        Err(HttpFailure::Broken(_)) => HookResult::Broken,
        Err(HttpFailure::TimedOut) => HookResult::TimedOut,
    }
}
