//! What one client is owed. Decides, and knows no socket.
//!
//! A session is a cursor: the epoch that its client is at, the same for all its subscriptions.
//! [`Session::advance`] moves it to where the hub is, with one diff for everything in between. The
//! image of a new subscription goes out in pieces, between the diffs of the others, and joins them
//! with its last one: that brings it to the very epoch that they are at.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::error::ArrowError;
use bytes::Bytes;
use pipeline::Epoch;

use crate::ask::{Seen, fingerprint, has_window_room, view_spec};
use crate::hub::{FellOff, Hub, Moment, Reasons};
use crate::image::{Image, Piece};
use crate::json::write_string;
use crate::message::{Draft, Message};
use crate::protocol::{Batch, Mode, PROTOCOL_VERSION, Refusal, Request, Subscribe, parse, shorten};
use crate::signal::Signal;
use crate::view::{Due, Told, View, ViewSpec};
use crate::viewer::Viewer;
use crate::wire::{Changes, Diff, FrameKey, Members, heartbeat, write_shape};

/// What a session may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Subscriptions.
    pub subscriptions_max: usize,
    /// The shortest time between two diffs.
    pub interval_min: Duration,
    /// The longest that a client may choose.
    pub interval_max: Duration,
    /// What the filters of a session may weigh together, in comparisons of a number for each row that changes.
    pub filter_weight_max: usize,
    /// Rows that windows may have, of all sessions; those that are the same count once.
    pub window_rows_max: usize,
    /// Images that are read at a time, of all sessions: who asks for another one is to ask again.
    pub images_max: usize,
}

impl Default for SessionLimits {
    fn default() -> SessionLimits {
        SessionLimits {
            subscriptions_max: 100,
            interval_min: Duration::ZERO,
            interval_max: Duration::from_secs(60),
            filter_weight_max: 500,
            window_rows_max: 1_000_000,
            images_max: 1000,
        }
    }
}

/// Rows of all windows of a session.
const SESSION_WINDOW_ROWS_MAX: usize = 10_000;
/// Answers that wait to be sent; with as many a client is not listened to.
const SENDING_MAX: usize = 8;
/// Changes over several epochs that are merged for one client. Above it rows are sent anew.
const MERGED_MAX: usize = 50_000;
/// Changes that an image's last message may bring.
const LAST_CHANGES_MAX: usize = 1000;

/// One client.
pub struct Session {
    hub: Arc<Hub>,
    limits: Arc<SessionLimits>,
    viewer: Viewer,
    /// Who the client is from now on, as soon as what is on its way has arrived.
    next_viewer: Option<Viewer>,
    token: Option<Box<str>>,
    /// What the client asked while it was not known whose its token is: an answer depends on that.
    deferred: Option<Vec<String>>,
    /// Whether that is to be answered as soon as the client is who its token says.
    goes_on: bool,
    /// Told when something concerns a subscription.
    signal: Arc<Signal>,
    /// Where the client is, once all that is on its way has arrived.
    moment: Arc<Moment>,
    subscriptions: ById<Subscription>,
    /// What goes out, in order, and before any image.
    sending: VecDeque<Sending>,
    /// Subscriptions whose images go out, a piece of each in turn.
    loading: VecDeque<Arc<str>>,
    interval: Option<Duration>,
    mode: Mode,
    rows_max: usize,
    /// There was no advancing while a diff was on its way.
    is_held_up: bool,
}

struct Subscription {
    /// What the client asked for, whoever it is; `None` when that is all.
    asked: Option<Box<Subscribe>>,
    view: Arc<View>,
    /// Where the view has our signal.
    place: usize,
    /// What the client's filter costs for each row that changes.
    weight: usize,
    state: State,
    /// Whether the client has been told that the projection fails.
    told_failed: bool,
    /// Whether the client has been told that what it shows may be old.
    told_stale: bool,
}

/// A few things by the client's names for them, in the order of the names: in no more memory than
/// they need, since most clients have one and there are many clients.
struct ById<T>(Vec<(Arc<str>, T)>);

impl<T> Default for ById<T> {
    fn default() -> ById<T> {
        ById(Vec::new())
    }
}

impl<T> ById<T> {
    fn place(&self, id: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(held, _)| (**held).cmp(id))
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn contains(&self, id: &str) -> bool {
        self.place(id).is_ok()
    }

    fn get(&self, id: &str) -> Option<&T> {
        self.place(id).ok().map(|place| &self.0[place].1)
    }

    fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.place(id).ok().map(|place| &mut self.0[place].1)
    }

    /// Adds one whose name is not there.
    fn insert(&mut self, id: Arc<str>, value: T) {
        let place = self.place(&id).unwrap_or_else(|place| place);
        self.0.reserve_exact(1);
        self.0.insert(place, (id, value));
    }

    fn remove(&mut self, id: &str) -> Option<(Arc<str>, T)> {
        self.place(id).ok().map(|place| self.0.remove(place))
    }

    fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &T)> {
        self.0.iter().map(|(id, value)| (id, value))
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut T)> {
        self.0.iter_mut().map(|(id, value)| (&*id, value))
    }
}

enum State {
    /// There is no image yet: the projection has no rows to show.
    Waiting(Option<Begin>),
    /// The image is on its way.
    Loading(Box<Loading>),
    /// It is where the session is.
    Live,
}

enum Sending {
    Message(Message),
    Diff(Box<Diff>),
}

/// The client's name for a subscription, what it is of, and what of that the client has not been told.
type Owed = (Arc<str>, Arc<View>, Vec<Due>);

/// How an image begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// The client has nothing.
    Anew,
    /// What the client has is replaced, for this reason.
    Reset(&'static str),
    /// What the client has stays, and what has changed since is told.
    Resumed,
}

impl Begin {
    fn name(self) -> &'static str {
        match self {
            Begin::Anew => "image",
            Begin::Reset(reason) => reason,
            Begin::Resumed => "resumed",
        }
    }
}

/// A subscription that the client does not have whole.
struct Loading {
    /// What the first message says, unless it has gone out.
    begin: Option<Begin>,
    /// The rows; `None` when the client has them.
    image: Option<Image>,
    /// What the rows that went out are of, once there are no more of them.
    from: Option<Epoch>,
    /// What came since, too much for the last message, and where it leads.
    changes: Option<(Changes, Epoch)>,
    /// What has been read and not gone out.
    rows: Bytes,
    members: Members,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.subscriptions.iter().for_each(|(_, held)| held.view.unwatch(held.place));
    }
}

impl Session {
    /// A client that has subscribed to nothing.
    #[must_use]
    pub fn new(hub: Arc<Hub>) -> Session {
        Session::with_limits(hub, Arc::default())
    }

    /// As [`Session::new`], with limits of the operator's.
    #[must_use]
    pub fn with_limits(hub: Arc<Hub>, limits: Arc<SessionLimits>) -> Session {
        let moment = hub.stamp();
        Session {
            hub,
            limits,
            viewer: Viewer::default(),
            next_viewer: None,
            token: None,
            deferred: None,
            goes_on: false,
            signal: Arc::default(),
            moment,
            subscriptions: ById::default(),
            sending: VecDeque::new(),
            loading: VecDeque::new(),
            interval: None,
            mode: Mode::Latest,
            rows_max: usize::MAX,
            is_held_up: false,
        }
    }

    /// Says who we are, first of all.
    pub fn greet(&mut self, heartbeat: Duration, message_bytes_max: usize) {
        let welcome = self.welcome(heartbeat, message_bytes_max);
        self.say(welcome);
    }

    /// The greeting.
    #[must_use]
    pub fn welcome(&self, heartbeat: Duration, message_bytes_max: usize) -> Message {
        let version = env!("CARGO_PKG_VERSION");
        let heartbeat_ms = heartbeat.as_millis();
        Message::from(format!(
            r#"{{"op":"welcome","server":"deltafront {version}","protocol":{PROTOCOL_VERSION},"heartbeat_ms":{heartbeat_ms},"message_bytes_max":{message_bytes_max}}}"#
        ))
    }

    /// Told when something concerns a subscription: then the client is to be advanced.
    #[must_use]
    pub fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    /// Subscriptions now.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// The shortest time between two diffs: what the client chose, and at least what the most eager
    /// of its projections asks for, since all subscriptions advance together.
    #[must_use]
    pub fn interval(&self) -> Duration {
        let of_projections = self.subscriptions.iter().map(|(_, held)| held.view.info.batch).min().unwrap_or_default();
        self.interval.unwrap_or_default().max(of_projections).max(self.limits.interval_min)
    }

    /// Answers a client's message.
    pub fn receive(&mut self, text: &str) {
        if let Some(deferred) = &mut self.deferred {
            // One read may hold so many; no more are read meanwhile.
            deferred.push(text.to_owned());
            return;
        }
        let answer = match parse(text) {
            Ok(Request::Subscribe(asked)) => {
                let id = asked.id.clone();
                self.subscribe(&asked).map_err(|refusal| refusal.about(&id))
            }
            Ok(Request::Unsubscribe { id }) => self.unsubscribe(&id),
            Ok(Request::Batch(batch)) => self.batch(&batch),
            Ok(Request::Authenticate { token }) => {
                (self.token, self.deferred) = (Some(token.into()), Some(Vec::new()));
                Ok(())
            }
            Ok(Request::Ping) => {
                self.advance();
                self.heartbeat();
                Ok(())
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = answer {
            self.say(refusal.to_json());
        }
    }

    fn say(&mut self, message: impl Into<Message>) {
        self.sending.push_back(Sending::Message(message.into()));
    }

    /// Begins as this viewer, with a subscription.
    ///
    /// # Errors
    /// When there is none to be had.
    pub fn begin(&mut self, asked: &Subscribe, viewer: Viewer) -> Result<(), Refusal> {
        self.viewer = viewer;
        self.subscribe(asked)
    }

    /// Where the client is with a subscription, by cursor and view, if it has all that it was told: nothing is on its way,
    /// and the image has come.
    #[must_use]
    pub fn whole_at(&self, id: &str) -> Option<(String, String)> {
        let held = self.subscriptions.get(id).filter(|held| matches!(held.state, State::Live) && !self.has_next())?;
        Some((self.hub.cursor(self.moment.epoch), fingerprint(&held.view.spec)))
    }

    fn subscribe(&mut self, asked: &Subscribe) -> Result<(), Refusal> {
        if self.subscriptions.contains(&asked.id) {
            return Err(Refusal::new("duplicate_id", format!("there is a subscription `{}` already", asked.id)));
        }
        if self.subscriptions.len() == self.limits.subscriptions_max {
            let message = format!("a session has at most {} subscriptions", self.limits.subscriptions_max);
            return Err(Refusal::new("too_many_subscriptions", message));
        }
        let Some(projection) = self.hub.find(&asked.projection) else {
            let message = format!("there is no projection `{}`", shorten(&asked.projection));
            return Err(Refusal::new("unknown_projection", message));
        };
        let info = Arc::clone(&self.hub.projections()[projection.0]);
        let Seen { spec, weight } = view_spec(projection, &info, asked, &self.viewer)?;
        self.has_room(&spec, weight)?;
        if let Some(reason) = self.hub.now().failed.get(&projection) {
            return Err(self.viewer.failure(&info, reason));
        }
        let begin = match &asked.resume {
            None => Ok(Begin::Anew),
            Some(resume) if resume.view != fingerprint(&spec) => Err("view"),
            Some(resume) => match self.hub.at_cursor(&resume.cursor) {
                None => Err("restart"),
                Some(epoch) => {
                    let view = self.hub.view(spec.clone());
                    // What a window was is known while somebody watches it; otherwise it is worked out.
                    let is_kept = spec.window.is_none() || view.has_window();
                    let loading = if is_kept && self.hub.due(&view, epoch, self.hub.stamp().epoch).is_ok() {
                        Some(Loading::new(Some(Begin::Resumed), None, Some(epoch)))
                    } else {
                        Loading::of_window(&self.hub, &view, epoch, Some(Begin::Resumed))
                    };
                    if let Some(loading) = loading {
                        self.add(asked, view, weight, State::Loading(Box::new(loading)));
                        return Ok(());
                    }
                    Err("log")
                }
            },
        };
        if self.hub.images.load(Ordering::Relaxed) >= self.limits.images_max {
            return Err(Refusal::busy("many clients have just come: ask again in a moment"));
        }
        let begin = begin.unwrap_or_else(Begin::Reset);
        let view = self.hub.view(spec);
        self.add(asked, view, weight, State::Waiting(Some(begin)));
        Ok(())
    }

    /// What each session costs all others has a bound: looking at each row that changes, and the rows of
    /// windows.
    fn has_room(&self, spec: &ViewSpec, weight: usize) -> Result<(), Refusal> {
        let weights: usize = self.subscriptions.iter().map(|(_, held)| held.weight).sum();
        if weights + weight > self.limits.filter_weight_max {
            let message = format!(
                "this filter weighs {weight} where a comparison weighs 1 and a pattern at least 4; those of a session \
                 weigh at most {} together, and have {weights}",
                self.limits.filter_weight_max
            );
            return Err(Refusal::new("too_heavy", message));
        }
        let Some(window) = &spec.window else { return Ok(()) };
        let windows = self.subscriptions.iter().filter_map(|(_, held)| held.view.spec.window.as_ref());
        let rows: usize = windows.map(|window| window.limit).sum();
        if rows + window.limit > SESSION_WINDOW_ROWS_MAX {
            let message = format!(
                "the windows of a session have at most {SESSION_WINDOW_ROWS_MAX} rows together; there are {rows}, and \
                 this one would have {}",
                window.limit
            );
            return Err(Refusal::new("too_heavy", message));
        }
        has_window_room(&self.hub, &self.limits, spec)
    }

    fn add(&mut self, asked: &Subscribe, view: Arc<View>, weight: usize, state: State) {
        let id: Arc<str> = asked.id.as_str().into();
        let asked = asked.wants_some().then(|| Box::new(Subscribe { resume: None, ..asked.clone() }));
        let place = view.watch(&self.signal);
        if matches!(state, State::Loading(_)) {
            self.loading.push_back(Arc::clone(&id));
        }
        self.subscriptions
            .insert(id, Subscription { asked, view, place, weight, state, told_failed: false, told_stale: false });
        self.load();
    }

    /// Begins with the images of those whose projections are ready.
    fn load(&mut self) {
        if !self.subscriptions.iter().any(|(_, held)| matches!(held.state, State::Waiting(_))) {
            return;
        }
        let failed = Arc::clone(&self.hub.now().failed);
        for (id, held) in self.subscriptions.iter_mut() {
            let State::Waiting(begin) = held.state else { continue };
            if failed.contains_key(&held.view.spec.projection) {
                continue;
            }
            let Some(image) = Image::of(&self.hub, &held.view) else { continue };
            held.state = State::Loading(Box::new(Loading::new(begin, Some(image), None)));
            self.loading.push_back(Arc::clone(id));
        }
    }

    fn unsubscribe(&mut self, id: &str) -> Result<(), Refusal> {
        let Some((id, held)) = self.subscriptions.remove(id) else {
            return Err(Refusal::new("unknown_id", format!("there is no subscription `{}`", shorten(id))).about(id));
        };
        held.view.unwatch(held.place);
        self.loading.retain(|loading| *loading != id);
        let mut message = br#"{"op":"unsubscribed","id":"#.to_vec();
        write_string(&mut message, &id);
        message.push(b'}');
        self.say(message);
        Ok(())
    }

    fn batch(&mut self, batch: &Batch) -> Result<(), Refusal> {
        let interval = batch.interval_ms.map(Duration::from_millis);
        if interval.is_some_and(|interval| interval > self.limits.interval_max) {
            let message = format!("`interval_ms` is at most {}", self.limits.interval_max.as_millis());
            return Err(Refusal::new("bad_request", message));
        }
        if batch.rows_max == Some(0) {
            return Err(Refusal::new("bad_request", "`rows_max` is at least 1"));
        }
        self.interval = interval.or(self.interval);
        self.mode = batch.mode.unwrap_or(self.mode);
        self.rows_max = batch.rows_max.map_or(self.rows_max, |rows| usize::try_from(rows).unwrap_or(usize::MAX));
        let mode = if self.mode == Mode::Every { "every" } else { "latest" };
        let rows = if self.rows_max == usize::MAX { "null".to_owned() } else { self.rows_max.to_string() };
        let interval_ms = self.interval().as_millis();
        self.say(format!(r#"{{"op":"batch","interval_ms":{interval_ms},"mode":"{mode}","rows_max":{rows}}}"#));
        Ok(())
    }

    /// Moves the client to where the hub is.
    pub fn advance(&mut self) {
        // What is on its way first.
        self.is_held_up = self.sending.iter().any(|sending| matches!(sending, Sending::Diff(_)));
        if self.is_held_up {
            return;
        }
        let now = self.hub.now();
        if now.moment.epoch > self.moment.epoch {
            self.bring_to(Arc::clone(&now.moment));
        }
        self.load();
        self.tell_stale(&now.stale);
        self.tell_failed(&now.failed);
    }

    /// Tells which subscriptions are of a projection that can't be served.
    fn tell_failed(&mut self, failed: &Reasons) {
        for (id, held) in self.subscriptions.iter_mut() {
            let reason = failed.get(&held.view.spec.projection);
            if let Some(reason) = reason.filter(|_| !held.told_failed) {
                let refusal = self.viewer.failure(&held.view.info, reason).about(id);
                self.sending.push_back(Sending::Message(refusal.to_json().into()));
            }
            held.told_failed = reason.is_some();
        }
    }

    /// Tells which subscriptions show what may be old, and which do so no more.
    fn tell_stale(&mut self, stale: &Reasons) {
        for (id, held) in self.subscriptions.iter_mut() {
            let reason = stale.get(&held.view.spec.projection);
            let was_told = std::mem::replace(&mut held.told_stale, reason.is_some());
            let mut message = match reason {
                Some(reason) if !was_told => {
                    let mut message = br#"{"op":"stale","message":"#.to_vec();
                    write_string(&mut message, reason);
                    message
                }
                None if was_told => br#"{"op":"fresh""#.to_vec(),
                _ => continue,
            };
            message.extend_from_slice(br#","id":"#);
            write_string(&mut message, id);
            message.push(b'}');
            self.sending.push_back(Sending::Message(message.into()));
        }
    }

    fn bring_to(&mut self, moment: Arc<Moment>) {
        if let Some(message) = self.told_to_others(moment.epoch) {
            self.moment = moment;
            self.sending.push_back(Sending::Message(message));
            return;
        }
        let mut due: Vec<Owed> = Vec::new();
        let mut lost: Vec<Arc<str>> = Vec::new();
        for (id, held) in self.subscriptions.iter().filter(|(_, held)| matches!(held.state, State::Live)) {
            match self.hub.due(&held.view, self.moment.epoch, moment.epoch) {
                Ok(found) if found.is_empty() => {}
                Ok(found) if found.len() > 1 && found.iter().map(Due::len).sum::<usize>() > MERGED_MAX => {
                    lost.push(Arc::clone(id));
                }
                Ok(found) => due.push((Arc::clone(id), Arc::clone(&held.view), found)),
                Err(FellOff) => lost.push(Arc::clone(id)),
            }
        }
        let was = std::mem::replace(&mut self.moment, moment).epoch;
        for id in lost {
            self.lose_or_resume(&id, was);
        }
        match self.mode {
            Mode::Latest => self.send_diff(Arc::clone(&self.moment), due),
            Mode::Every => {
                let mut epochs: BTreeMap<Epoch, Vec<Owed>> = BTreeMap::new();
                for (id, view, found) in due {
                    for one in found {
                        let of_epoch = epochs.entry(one.record.stamp.epoch).or_default();
                        of_epoch.push((Arc::clone(&id), Arc::clone(&view), vec![one]));
                    }
                }
                for due in epochs.into_values() {
                    let stamp = Arc::clone(&due[0].2[0].record.stamp);
                    self.send_diff(stamp, due);
                }
            }
        }
    }

    /// The message that brings the client there, if it was made for others who have the same one subscription.
    fn told_to_others(&self, to: Epoch) -> Option<Message> {
        let ([(id, held)], Mode::Latest, State::Live) =
            (&*self.subscriptions.0, self.mode, &self.subscriptions.0.first()?.1.state)
        else {
            return None;
        };
        held.view.told(id, self.moment.epoch, to, self.rows_max)
    }

    fn send_diff(&mut self, to: Arc<Moment>, due: Vec<Owed>) {
        if due.is_empty() {
            return;
        }
        let is_shared = due.iter().all(|(_, view, _)| view.watchers() > 1);
        let key = FrameKey {
            kind: "diff",
            subscriptions: due.iter().map(|(id, view, due)| (Arc::clone(id), view.id, first_epoch(due))).collect(),
            to: to.epoch,
            rows_max: self.rows_max,
        };
        let (rows_max, part_bytes) = (self.rows_max, self.hub.part_bytes());
        let make = |due: Vec<Owed>| -> Diff {
            let changes = due.into_iter().map(|(id, view, due)| (id, Changes::new(&view, due))).collect();
            Diff::new(Arc::clone(&to), changes, rows_max, part_bytes)
        };
        if !is_shared {
            self.sending.push_back(Sending::Diff(Box::new(make(due))));
            return;
        }
        let only = if let [(id, view, due)] = &*due {
            Some((Arc::clone(id), Arc::clone(view), first_epoch(due)))
        } else {
            None
        };
        let frame = self.hub.frames.get(key, || {
            let mut diff = make(due.clone());
            // Of nothing, nothing is sent; what is too large for one message is not shared.
            diff.next_message().map_or(Some(None), |message| diff.is_done().then_some(Some(message)))
        });
        match frame {
            Some(None) => {}
            Some(Some(message)) => {
                if let Some((id, view, first)) = only {
                    view.tell(Told { id, first, to: to.epoch, rows_max, message: message.downgrade() });
                }
                self.sending.push_back(Sending::Message(message));
            }
            None => self.sending.push_back(Sending::Diff(Box::new(make(due)))),
        }
    }

    /// "Complete up to here", after all that leads there: where the client is, and not the hub.
    pub fn heartbeat(&mut self) {
        let moment = Arc::clone(&self.moment);
        self.say(heartbeat(&moment));
    }

    /// A token that the client has sent, for whoever can tell whose it is.
    pub fn take_token(&mut self) -> Option<String> {
        self.token.take().map(String::from)
    }

    /// The client's token holds: it is told so, and sees what this one sees.
    pub fn authenticated(&mut self, viewer: Viewer) {
        self.say(br#"{"op":"authenticated"}"#.to_vec());
        self.goes_on = true;
        self.set_viewer(viewer);
    }

    /// The client's token does not hold. It stays who it was.
    pub fn not_authenticated(&mut self, refusal: &Refusal) {
        self.say(refusal.to_json());
        self.go_on();
    }

    /// Answers what was asked meanwhile.
    fn go_on(&mut self) {
        let mut deferred = self.deferred.take().unwrap_or_default().into_iter();
        for text in deferred.by_ref() {
            self.receive(&text);
            // Another token may have been among it.
            if let Some(again) = &mut self.deferred {
                again.extend(deferred);
                return;
            }
        }
    }

    /// The client has shown who it is, or that it is somebody else now. What it sees then differs by
    /// rows that come and rows that go; of a subscription that shows other columns now, or a window,
    /// it has a new image; and one that is not for it any more ends.
    pub fn set_viewer(&mut self, viewer: Viewer) {
        self.next_viewer = Some(viewer);
        self.change_viewer();
    }

    /// Changes the viewer unless a diff is on its way, which is of what the old one saw.
    fn change_viewer(&mut self) {
        if self.sending.iter().any(|sending| matches!(sending, Sending::Diff(_))) {
            return;
        }
        let Some(viewer) = self.next_viewer.take() else { return };
        self.viewer = viewer;
        let (all, mut ended) = (Subscribe::default(), Vec::new());
        let mut changed: Vec<(Arc<str>, Arc<View>)> = Vec::new();
        for (id, held) in self.subscriptions.iter() {
            match view_spec(
                held.view.spec.projection,
                &held.view.info,
                held.asked.as_deref().unwrap_or(&all),
                &self.viewer,
            ) {
                Ok(Seen { spec, .. }) if spec == held.view.spec => {}
                Ok(Seen { spec, .. }) => changed.push((Arc::clone(id), self.hub.view(spec))),
                Err(refusal) => ended.push((Arc::clone(id), refusal.about(id))),
            }
        }
        for (id, refusal) in ended {
            self.say(refusal.to_json());
            // There is one of this name.
            let _ = self.unsubscribe(&id);
        }
        for (id, view) in changed {
            self.change_view(&id, view);
        }
        self.load();
        if std::mem::take(&mut self.goes_on) {
            self.go_on();
        }
    }

    fn change_view(&mut self, id: &Arc<str>, view: Arc<View>) {
        let Some(held) = self.subscriptions.get(id) else { return };
        let old = Arc::clone(&held.view);
        let is_alike = old.spec.columns == view.spec.columns && old.spec.window.is_none();
        let image = match held.state {
            State::Live if is_alike => Image::between(&self.hub, &old, &view),
            _ => None,
        };
        let state = match image {
            Some((image, moment)) => {
                // What the client has is to be of the very moment whose rows are compared.
                if moment.epoch > self.moment.epoch {
                    self.bring_to(moment);
                }
                let is_there = self.subscriptions.get(id).is_some_and(|held| matches!(held.state, State::Live));
                is_there.then(|| State::Loading(Box::new(Loading::new(None, Some(image), None))))
            }
            None => None,
        };
        let place = view.watch(&self.signal);
        let Some(held) = self.subscriptions.get_mut(id) else { return };
        held.view.unwatch(held.place);
        (held.view, held.place) = (view, place);
        // What the client has is not what it should have any more: it hears so before anything else that
        // may say "complete up to here".
        if let Some(state) = state {
            held.state = state;
            self.loading.push_back(Arc::clone(id));
            self.say_begin(id, Begin::Resumed);
        } else {
            self.loading.retain(|loading| loading != id);
            let not_told = match &held.state {
                State::Waiting(begin) => *begin,
                State::Loading(loading) => loading.begin,
                State::Live => None,
            };
            match not_told {
                // What it has from before is not of what it sees now.
                Some(Begin::Resumed) => held.state = State::Waiting(Some(Begin::Reset("claims"))),
                Some(begin) => held.state = State::Waiting(Some(begin)),
                None => self.lose(id, "claims"),
            }
        }
    }

    /// The client takes nothing for the moment, or something again: what is on its way to it does not
    /// keep others waiting meanwhile.
    pub fn pause(&mut self, is_paused: bool) {
        for (_, held) in self.subscriptions.iter_mut() {
            if let State::Loading(loading) = &mut held.state
                && let Some(image) = &mut loading.image
            {
                image.pause(is_paused);
            }
        }
    }

    /// Whether so much waits to be sent that nothing more is to be asked for.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.sending.len() >= SENDING_MAX || self.deferred.is_some()
    }

    /// Whether there is something to send.
    #[must_use]
    pub fn has_next(&self) -> bool {
        !self.sending.is_empty() || !self.loading.is_empty() || self.is_held_up || self.next_viewer.is_some()
    }

    /// The next message. There may be none for the moment though [`Session::has_next`], while a
    /// large projection is looked through.
    pub fn next_message(&mut self) -> Option<Message> {
        while let Some(first) = self.sending.front_mut() {
            match first {
                Sending::Message(message) => {
                    let message = message.clone();
                    self.sending.pop_front();
                    return Some(message);
                }
                Sending::Diff(diff) => match diff.next_message() {
                    Some(message) => return Some(message),
                    None => {
                        self.sending.pop_front();
                    }
                },
            }
        }
        // An idle client holds no room for what it was sent.
        self.sending = VecDeque::new();
        if self.next_viewer.is_some() {
            self.change_viewer();
            return self.next_message();
        }
        if self.is_held_up {
            self.advance();
            return self.next_message();
        }
        let Some(id) = self.loading.pop_front() else {
            self.loading = VecDeque::new();
            return None;
        };
        self.next_piece(id)
    }

    /// The next piece of a subscription's image. Of several images each has a piece in turn.
    fn next_piece(&mut self, id: Arc<str>) -> Option<Message> {
        let now = self.hub.stamp();
        let held = self.subscriptions.get_mut(&id)?;
        let State::Loading(loading) = &mut held.state else { return None };
        if let Err(error) = loading.read(&self.hub) {
            let refusal = Refusal::new("internal", format!("the rows can't be read: {error}")).about(&id);
            held.state = State::Live;
            return Some(refusal.to_json().into());
        }
        if let (Some(from), None) = (loading.from, &loading.changes) {
            match self.hub.due(&held.view, from, now.epoch) {
                Ok(due) if due.iter().map(Due::len).sum::<usize>() > LAST_CHANGES_MAX => {
                    loading.changes = Some((Changes::new(&held.view, due), now.epoch));
                }
                Ok(_) => return self.last_piece(id, from),
                Err(FellOff) => match &mut loading.image {
                    // Its rows are few, and may be on their way: all of them again.
                    Some(_) if held.view.spec.window.is_some() => {
                        let begin = loading.begin.filter(|begin| *begin != Begin::Resumed);
                        held.state = State::Waiting(Some(begin.unwrap_or(Begin::Reset("log"))));
                        self.load();
                        return None;
                    }
                    Some(image) => {
                        image.bring_up(&self.hub);
                        loading.from = None;
                    }
                    None => {
                        held.state = State::Waiting(Some(Begin::Reset("log")));
                        self.load();
                        return None;
                    }
                },
            }
        }
        let (rows, mut members) = (std::mem::take(&mut loading.rows), std::mem::take(&mut loading.members));
        self.loading.push_back(Arc::clone(&id));
        if rows.is_empty() && members.is_empty() {
            return None;
        }
        Some(self.image_message(&id, &rows, &mut members, false))
    }

    /// The last piece, which brings the subscription to where the others are.
    fn last_piece(&mut self, id: Arc<str>, from: Epoch) -> Option<Message> {
        // The others first: what brings them there is sent before.
        self.advance();
        let view = Arc::clone(&self.subscriptions.get(&id)?.view);
        // A window may be ahead of what is visible, for a moment, and an image of a client that is
        // still being sent what came before.
        let due = if from > self.moment.epoch { Err(FellOff) } else { self.hub.due(&view, from, self.moment.epoch) };
        let Ok(due) = due else {
            self.loading.push_back(id);
            return if self.sending.is_empty() { None } else { self.next_message() };
        };
        let State::Loading(loading) = &mut self.subscriptions.get_mut(&id)?.state else { return None };
        let is_alone = due.is_empty() && loading.members.is_empty();
        let whole_image = loading.begin.filter(|_| is_alone).map(Begin::name);
        let (mut rows, mut members) = (std::mem::take(&mut loading.rows), std::mem::take(&mut loading.members));
        if !due.is_empty() && !members.is_empty() {
            // A key is once in a message: what came after may be of the same.
            let message = self.image_message(&id, &std::mem::take(&mut rows), &mut members, false);
            self.say(message);
        }
        if !due.is_empty() {
            let _ = Changes::new(&view, due).write(&mut members, usize::MAX, usize::MAX);
        }
        // Of an image that is one message the bytes are the same for all who ask at the same moment.
        let kind = whole_image.filter(|_| view.watchers() > 1);
        let message = match kind {
            None => self.image_message(&id, &rows, &mut members, true),
            Some(kind) => {
                let key = FrameKey {
                    kind,
                    subscriptions: vec![(Arc::clone(&id), view.id, from)],
                    to: self.moment.epoch,
                    rows_max: usize::MAX,
                };
                let hub = Arc::clone(&self.hub);
                let make = || Some(Some(self.image_message(&id, &rows, &mut members, true)));
                hub.frames.get(key, make).flatten()?
            }
        };
        if let Some(held) = self.subscriptions.get_mut(&id) {
            held.state = State::Live;
        }
        self.say(message);
        self.next_message()
    }

    fn image_message(&mut self, id: &Arc<str>, rows: &[u8], members: &mut Members, is_last: bool) -> Message {
        let mut begin = None;
        let mut out = Draft::new();
        out.extend_from_slice(br#"{"op":"image","id":"#);
        out.reserve(rows.len() + members.bytes() + 512);
        write_string(&mut out, id);
        if let Some(held) = self.subscriptions.get_mut(id) {
            if let State::Loading(loading) = &mut held.state {
                begin = loading.begin.take();
            }
            if let Some(begin) = begin {
                write_begin(&mut out, &held.view, begin);
            }
        }
        if is_last {
            out.push(b',');
            out.extend_from_slice(self.moment.json());
        }
        out.extend_from_slice(br#","rows":["#);
        out.extend_from_slice(rows);
        out.push(b']');
        members.write(&mut out);
        out.extend_from_slice(if is_last { br#","last":true}"# } else { br#","last":false}"# });
        out.finish()
    }

    /// What the client has of a subscription is behind, and is of this epoch: of a window it may be told what
    /// differs, though the window has to be made anew.
    fn lose_or_resume(&mut self, id: &Arc<str>, epoch: Epoch) {
        let view = self.subscriptions.get(id).map(|held| Arc::clone(&held.view));
        let loading = view.and_then(|view| Loading::of_window(&self.hub, &view, epoch, None));
        let Some(loading) = loading else { return self.lose(id, "log") };
        self.say_begin(id, Begin::Resumed);
        if let Some(held) = self.subscriptions.get_mut(id) {
            held.state = State::Loading(Box::new(loading));
            self.loading.push_back(Arc::clone(id));
        }
    }

    /// What the client has of a subscription is behind and stays so until its image has come anew. It
    /// is told at once, before the others move on.
    fn lose(&mut self, id: &Arc<str>, reason: &'static str) {
        self.say_begin(id, Begin::Reset(reason));
        if let Some(held) = self.subscriptions.get_mut(id) {
            held.state = State::Waiting(None);
        }
    }

    /// Says that an image begins, before there is anything of it.
    fn say_begin(&mut self, id: &Arc<str>, begin: Begin) {
        let Some(held) = self.subscriptions.get(id) else { return };
        let mut out = br#"{"op":"image","id":"#.to_vec();
        write_string(&mut out, id);
        write_begin(&mut out, &held.view, begin);
        out.extend_from_slice(br#","rows":[],"last":false}"#);
        self.say(out);
    }
}

/// Appends what the first message of an image says: of what it is, and what of that the client has.
fn write_begin(out: &mut Vec<u8>, view: &View, begin: Begin) {
    out.extend_from_slice(br#","projection":"#);
    write_string(out, &view.info.name);
    out.push(b',');
    write_shape(out, &view.info, &view.spec);
    out.extend_from_slice(format!(r#","view":"{}""#, fingerprint(&view.spec)).as_bytes());
    match begin {
        Begin::Anew => {}
        Begin::Reset(reason) => out.extend_from_slice(format!(r#","reset":"{reason}""#).as_bytes()),
        Begin::Resumed => out.extend_from_slice(br#","resumed":true"#),
    }
}

impl Loading {
    /// What differs of a window from what it was; `None` of what is no window, and of one that has none to
    /// show.
    fn of_window(hub: &Hub, view: &Arc<View>, epoch: Epoch, begin: Option<Begin>) -> Option<Loading> {
        view.spec.window.as_ref()?;
        let image = Image::of(hub, view)?.since(epoch);
        Some(Loading::new(begin, Some(image), None))
    }

    fn new(begin: Option<Begin>, image: Option<Image>, from: Option<Epoch>) -> Loading {
        Loading { begin, image, from, changes: None, rows: Bytes::new(), members: Members::default() }
    }

    /// Reads on, unless what was read has not gone out yet.
    fn read(&mut self, hub: &Hub) -> Result<(), ArrowError> {
        if !self.rows.is_empty() || !self.members.is_empty() {
            return Ok(());
        }
        if let Some((changes, to)) = &mut self.changes {
            if changes.write(&mut self.members, hub.part_bytes(), usize::MAX) {
                self.from = Some(*to);
                self.changes = None;
            }
        } else if let (None, Some(image)) = (self.from, &mut self.image) {
            match image.next(hub)? {
                Piece::Rows(more) => self.rows = more,
                Piece::Anew(more) => (self.begin, self.rows) = (Some(Begin::Reset("log")), more),
                Piece::Changes(more) => self.members = more,
                Piece::End => {}
            }
            self.from = image.is_at_end().then(|| image.epoch());
        }
        Ok(())
    }
}

fn first_epoch(due: &[Due]) -> Epoch {
    due.first().map_or(Epoch(0), |due| due.record.stamp.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeSet;

    use crate::hub::{PART_BYTES, Projection, Stamp};
    use crate::testing::{
        ample_hub, fail, hub, hub_of, not_ready, projection, publish, ready, restless_hub, stamp, text,
    };
    use expect_test::{Expect, expect};

    /// Plays a story with one client, and compares all that the client is sent. Its lines are
    ///
    /// ```text
    /// publish EPOCH CHANGES       fail EPOCH PROJECTION REASON
    /// stale PROJECTION …                                         these may be old, the others not
    /// ready EPOCH PROJECTION                                     it has a diff, of nothing
    /// subscribe ID PROJECTION     {"op":…}                       what the client sends
    /// advance                     heartbeat                      what the socket's loop does
    /// ```
    fn check(story: &str, expected: Expect) {
        check_on(&ample_hub(), story, expected);
    }

    fn check_on(hub: &Arc<Hub>, story: &str, expected: Expect) {
        let mut session = Session::new(Arc::clone(hub));
        let mut out: Vec<Message> = Vec::new();
        for line in story.lines().map(str::trim) {
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            let mut words = rest.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_default();
            match verb {
                "publish" => {
                    let (epoch, changes) = rest.split_once(' ').unwrap_or((rest, ""));
                    publish(hub, epoch.parse().expect("an epoch"), changes);
                }
                "fail" => fail(hub, word().parse().expect("an epoch"), word(), word()),
                "stale" => {
                    let reasons = rest.split_whitespace().map(|name| (hub.find(name).expect("one"), "lost".into()));
                    hub.set_stale(reasons.collect());
                }
                "ready" => ready(hub, word().parse().expect("an epoch"), word()),
                "subscribe" => out.extend(subscribe(&mut session, word(), word())),
                "advance" => out.extend(advance(&mut session)),
                "heartbeat" => {
                    session.heartbeat();
                    out.extend(messages(&mut session));
                }
                "" => {}
                _ => {
                    session.receive(line);
                    out.extend(messages(&mut session));
                }
            }
        }
        expected.assert_eq(&sent(out).replace(SHAPE, ""));
    }

    /// What every first message of an image says of these projections.
    const SHAPE: &str = r#","columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}]"#;

    /// Everything that goes out, a line a message, stamps as `epoch@LSN`.
    fn sent(out: Vec<Message>) -> String {
        let mut told = String::new();
        for message in out {
            let mut message = text(message.json()).to_owned();
            for (name, ends) in [(r#","cursor":""#, "\""), (r#","view":""#, "\"")] {
                while let Some(start) = message.find(name) {
                    let length = message[start + name.len()..].find(ends).expect("an end");
                    message.replace_range(start..=start + name.len() + length, "");
                }
            }
            told += &message
                .replace(r#","position":{"shop":"0/"#, "@")
                .replace(r#""},"commit_time":"1970-01-01T00:00:00Z""#, "")
                .replace(r#","position":{},"commit_time":"1970-01-01T00:00:00Z""#, "");
            told.push('\n');
        }
        told
    }

    /// Parts that an image of a test has at most: one without an end is to fail, and not to fill memory.
    const MESSAGES_MAX: usize = 100;

    fn messages(session: &mut Session) -> Vec<Message> {
        let mut messages = Vec::new();
        while session.has_next() && messages.len() < MESSAGES_MAX {
            messages.extend(session.next_message());
        }
        messages
    }

    fn subscribe(session: &mut Session, id: &str, name: &str) -> Vec<Message> {
        session.receive(&format!(r#"{{"op":"subscribe","id":"{id}","projection":"{name}"}}"#));
        messages(session)
    }

    fn advance(session: &mut Session) -> Vec<Message> {
        session.advance();
        messages(session)
    }

    #[test]
    fn an_image_and_then_diffs_by_key() {
        check(
            r#"publish 1 +keyed(1,ann) +keyed(2,bob) +2bag(5,x)
               subscribe a keyed
               publish 2 -keyed(1,ann) +keyed(1,eve) -keyed(2,bob)
               advance
               subscribe b bag
               publish 3 +keyed(3,joe) -bag(5,x)
               advance
               advance"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":1@1,"rows":[[1,"ann"],[2,"bob"]],"last":true}
                {"op":"diff","epoch":2@2,"diffs":[{"id":"a","upsert":[[1,"eve"]],"delete":[[2]]}],"last":true}
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":2@2,"rows":[[5,"x"],[5,"x"]],"last":true}
                {"op":"diff","epoch":3@3,"diffs":[{"id":"a","upsert":[[3,"joe"]]},{"id":"b","count":[[-1,[5,"x"]]]}],"last":true}
            "#]],
        );
    }

    /// The members that stories leave out: a stamp, and a projection's shape.
    #[test]
    fn messages_say_how_far_they_go_and_what_rows_are() {
        let mut info = projection("ranking", Some(vec![1, 0]));
        info.order = vec![(1, true), (0, false)];
        let hub = hub_of(vec![info]);
        let told = hub.publish(Stamp { commit_time: 951_827_696_500_000, ..stamp(0x16B_3748) }, Vec::new());
        told.expect("nothing");
        let mut session = Session::new(hub);
        let mut out = subscribe(&mut session, "a", "ranking");
        session.heartbeat();
        out.extend(messages(&mut session));
        out.push(session.welcome(Duration::from_millis(1500), 65536));
        let told: Vec<String> =
            out.iter().map(|message| text(message.json()).replace(env!("CARGO_PKG_VERSION"), "VERSION")).collect();
        expect![[r#"
            {"op":"image","id":"a","projection":"ranking","columns":[{"name":"id","type":"bigint"},{"name":"name","type":"text"}],"key":["name","id"],"order":[{"column":"name","descending":true},{"column":"id","descending":false}],"view":"eddb89b8c12de960","epoch":23803720,"position":{"shop":"0/16B3748"},"commit_time":"2000-02-29T12:34:56.5Z","cursor":"boot-23803720","rows":[],"last":true}
            {"op":"heartbeat","epoch":23803720,"position":{"shop":"0/16B3748"},"commit_time":"2000-02-29T12:34:56.5Z","cursor":"boot-23803720"}
            {"op":"welcome","server":"deltafront VERSION","protocol":2,"heartbeat_ms":1500,"message_bytes_max":65536}
        "#]]
        .assert_eq(&(told.join("\n") + "\n"));
    }

    #[test]
    fn a_slow_client_gets_the_net_of_what_it_missed() {
        check(
            r#"subscribe a keyed
               subscribe b bag
               publish 1 +keyed(1,ann) +bag(5,x)
               publish 2 -keyed(1,ann) +keyed(1,eve) +bag(6,y)
               publish 3 +keyed(2,bob) -bag(5,x)
               publish 4 -keyed(2,bob)
               advance"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"diff","epoch":4@4,"diffs":[{"id":"a","upsert":[[1,"eve"]]},{"id":"b","count":[[1,[6,"y"]]]}],"last":true}
            "#]],
        );
    }

    /// Epochs that changed nothing of the client's make no message, and it is past them all the same.
    #[test]
    fn what_is_not_subscribed_is_not_sent() {
        check(
            r#"subscribe b bag
               publish 1 +keyed(1,ann)
               advance
               publish 2 +keyed(2,bob) +bag(5,x)
               advance
               {"op":"unsubscribe","id":"b"}
               publish 3 +bag(6,y)
               advance
               heartbeat"#,
            expect![[r#"
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"diff","epoch":2@2,"diffs":[{"id":"b","count":[[1,[5,"x"]]]}],"last":true}
                {"op":"unsubscribed","id":"b"}
                {"op":"heartbeat","epoch":3@3}
            "#]],
        );
    }

    /// An answer to a ping says that all is complete up to its epoch. When it did not advance the
    /// client, "complete up to 1" came while 2 was there, and a client that pings in place of
    /// waiting for heartbeats never learned how far it is.
    #[test]
    fn a_ping_brings_what_is_there_and_then_says_so() {
        check(
            r#"subscribe a keyed
               publish 1 +keyed(1,ann)
               {"op":"ping"}
               publish 2 +bag(5,x)
               {"op":"ping"}"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"diff","epoch":1@1,"diffs":[{"id":"a","upsert":[[1,"ann"]]}],"last":true}
                {"op":"heartbeat","epoch":1@1}
                {"op":"heartbeat","epoch":2@2}
            "#]],
        );
    }

    /// "All you hold is complete up to this epoch" is about what the client was sent, and the hub
    /// may be further: were the hub's epoch told, a client would take old rows for new.
    #[test]
    fn a_heartbeat_tells_the_sessions_epoch_not_the_hubs() {
        check(
            r#"publish 1 +keyed(1,ann)
               subscribe a keyed
               publish 2 -keyed(1,ann)
               heartbeat
               advance
               heartbeat"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":1@1,"rows":[[1,"ann"]],"last":true}
                {"op":"heartbeat","epoch":1@1}
                {"op":"diff","epoch":2@2,"diffs":[{"id":"a","delete":[[1]]}],"last":true}
                {"op":"heartbeat","epoch":2@2}
            "#]],
        );
    }

    #[test]
    fn a_client_that_fell_off_the_log_is_sent_its_images_anew() {
        check_on(
            &hub(0),
            r#"publish 1 +keyed(1,ann)
               subscribe a keyed
               subscribe b bag
               publish 2 +keyed(2,bob) +2bag(5,x)
               advance
               publish 3 -bag(5,x)
               subscribe c keyed
               advance"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":1@1,"rows":[[1,"ann"]],"last":true}
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":1@1,"rows":[],"last":true}
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"reset":"log","rows":[],"last":false}
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"reset":"log","rows":[],"last":false}
                {"op":"image","id":"a","epoch":2@2,"rows":[[1,"ann"],[2,"bob"]],"last":true}
                {"op":"image","id":"b","epoch":2@2,"rows":[[5,"x"],[5,"x"]],"last":true}
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"reset":"log","rows":[],"last":false}
                {"op":"image","id":"c","projection":"keyed","key":["id"],"order":[],"epoch":3@3,"rows":[[1,"ann"],[2,"bob"]],"last":true}
                {"op":"image","id":"b","epoch":3@3,"rows":[[5,"x"]],"last":true}
            "#]],
        );
    }

    #[test]
    fn a_new_subscription_first_brings_the_others_to_its_epoch() {
        check(
            r#"subscribe a keyed
               publish 1 +keyed(1,ann)
               subscribe b bag"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"diff","epoch":1@1,"diffs":[{"id":"a","upsert":[[1,"ann"]]}],"last":true}
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":1@1,"rows":[],"last":true}
            "#]],
        );
    }

    /// The hub moves on between any two looks at it. An image taken from a second one, after that
    /// which gave the epoch and the diffs, was newer than it said: the client then took in the next
    /// diff, which it held already, and of a whole row it counted one too many.
    #[test]
    fn an_image_is_of_the_epoch_that_it_tells() {
        for log_bytes_max in [1 << 20, 0] {
            let mut session = Session::new(restless_hub(log_bytes_max));
            let mut out = subscribe(&mut session, "a", "keyed");
            out.extend(subscribe(&mut session, "b", "keyed"));
            out.extend(advance(&mut session));
            for message in out {
                let value: serde_json::Value = serde_json::from_slice(message.json()).expect("JSON");
                if value["last"] != true {
                    continue;
                }
                let epoch = value["epoch"].as_u64().expect("an epoch").to_string();
                let diff = if value["op"] == "diff" { &value["diffs"][0] } else { &value };
                let rows = if diff["upsert"].is_array() { &diff["upsert"] } else { &value["rows"] };
                assert_eq!(rows, &serde_json::json!([[1, epoch]]), "{value}");
            }
        }
    }

    /// Of two rows so long, the number of messages and of rows in each.
    fn parts(row_bytes: usize) -> Vec<usize> {
        let hub = ample_hub();
        let name = "x".repeat(row_bytes - r#"[1,""]"#.len());
        publish(&hub, 1, &format!("+bag(1,{name}) +bag(2,{name})"));
        let all = subscribe(&mut Session::new(hub), "a", "bag");
        let values: Vec<serde_json::Value> =
            all.iter().map(|message| serde_json::from_slice(message.json()).expect("JSON")).collect();
        let lasts: Vec<bool> = values.iter().map(|value| value["last"] == true).collect();
        assert_eq!(
            lasts.iter().rposition(|last| !last).map_or(0, |i| i + 1),
            lasts.len() - 1,
            "the last is the last: {lasts:?}"
        );
        assert!(
            values.iter().enumerate().all(|(i, value)| value["columns"].is_array() == (i == 0)),
            "columns come first, and once"
        );
        values.iter().map(|value| value["rows"].as_array().map_or(0, Vec::len)).collect()
    }

    /// A part ends with the row that fills it; no empty one comes after the last.
    #[test]
    fn an_image_is_cut_where_a_part_is_full() {
        assert_eq!(parts(100), [2]);
        assert_eq!(parts(PART_BYTES / 2), [2]);
        assert_eq!(parts(PART_BYTES), [1, 1]);
        assert_eq!(PART_BYTES, 262_144, "what a slow client costs");
    }

    /// An image without rows would say that there are none; of what is ready and empty, that is so.
    /// What came before the image is in it, and is told no second time.
    #[test]
    fn a_projection_that_is_not_ready_has_its_image_when_it_is() {
        check_on(
            &not_ready(1 << 20),
            r#"subscribe a keyed
               subscribe b bag
               advance
               ready 1 bag
               advance
               publish 2 +bag(5,x)
               publish 3 +keyed(1,ann)
               publish 4 +keyed(2,bob)
               advance
               publish 5 +keyed(3,joe)
               advance"#,
            expect![[r#"
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":1@1,"rows":[],"last":true}
                {"op":"diff","epoch":4@4,"diffs":[{"id":"b","count":[[1,[5,"x"]]]}],"last":true}
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":4@4,"rows":[[1,"ann"],[2,"bob"]],"last":true}
                {"op":"diff","epoch":5@5,"diffs":[{"id":"a","upsert":[[3,"joe"]]}],"last":true}
            "#]],
        );
    }

    #[test]
    fn who_waits_for_an_image_waits_off_the_log_too_and_may_leave() {
        check_on(
            &not_ready(0),
            r#"subscribe a keyed
               subscribe b bag
               publish 1 +bag(5,x)
               publish 2 +bag(6,y)
               advance
               {"op":"unsubscribe","id":"a"}
               publish 3 +keyed(1,ann)
               advance"#,
            expect![[r#"
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":2@2,"rows":[[5,"x"],[6,"y"]],"last":true}
                {"op":"unsubscribed","id":"a"}
            "#]],
        );
    }

    #[test]
    fn one_that_fails_before_it_was_ever_shown_is_awaited() {
        check_on(
            &not_ready(1 << 20),
            r#"subscribe a keyed
               fail 1 keyed two rows have the key id = 7
               advance
               publish 2 +keyed(7,ann)
               advance"#,
            expect![[r#"
                {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":2@2,"rows":[[7,"ann"]],"last":true}
            "#]],
        );
        // It was ready for a moment, and the client did not look.
        check_on(
            &not_ready(1 << 20),
            r#"subscribe a keyed
               publish 1 +keyed(7,ann)
               fail 2 keyed two rows have the key id = 7
               advance
               publish 3 +keyed(8,bob)
               advance"#,
            expect![[r#"
                {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":3@3,"rows":[[7,"ann"],[8,"bob"]],"last":true}
            "#]],
        );
    }

    #[test]
    fn refusals_end_nothing() {
        check(
            r#"subscribe a none
               subscribe a bag
               subscribe a bag
               {"op":"unsubscribe","id":"z"}
               {"op":"unsubscribe","id":"a"}
               hello"#,
            expect![[r#"
                {"op":"error","id":"a","code":"unknown_projection","message":"there is no projection `none`"}
                {"op":"image","id":"a","projection":"bag","key":null,"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"error","id":"a","code":"duplicate_id","message":"there is a subscription `a` already"}
                {"op":"error","id":"z","code":"unknown_id","message":"there is no subscription `z`"}
                {"op":"unsubscribed","id":"a"}
                {"op":"error","code":"bad_json","message":"the message is not JSON: expected value at line 1 column 1"}
            "#]],
        );
    }

    /// A thousand clients who come at once do not take the time of those who are there: one more is told
    /// when to ask again, each at a time of its own. A client that takes nothing keeps nobody waiting.
    #[test]
    fn images_are_read_a_number_at_a_time() {
        let hub = ample_hub();
        publish(&hub, 1, "+keyed(1,ann)");
        let limits = Arc::new(SessionLimits { images_max: 2, ..SessionLimits::default() });
        let session = || Session::with_limits(Arc::clone(&hub), Arc::clone(&limits));
        let ask = r#"{"op":"subscribe","id":"a","projection":"keyed"}"#;
        let mut under_way = [session(), session()];
        under_way.iter_mut().for_each(|session| session.receive(ask));
        let mut times = BTreeSet::new();
        for _ in 0..50 {
            let mut late = session();
            late.receive(ask);
            let answer: serde_json::Value = serde_json::from_str(&sent(messages(&mut late))).expect("one message");
            assert_eq!((&answer["op"], &answer["id"], &answer["code"]), (&"error".into(), &"a".into(), &"busy".into()));
            times.insert(answer["retry_after_ms"].as_u64().expect("a number"));
        }
        assert!(times.iter().all(|time| (1000..=5000).contains(time)) && times.len() > 20, "{times:?}");
        let mut other = session();
        under_way[0].pause(true);
        other.receive(ask);
        assert!(sent(messages(&mut other)).contains("[1,\"ann\"]"));
        under_way[0].pause(false);
        other.receive(&ask.replace(r#""a""#, r#""b""#));
        assert!(sent(messages(&mut other)).contains("busy"));
        drop(messages(&mut under_way[1]));
        other.receive(&ask.replace(r#""a""#, r#""c""#));
        assert!(sent(messages(&mut other)).contains("[1,\"ann\"]"), "an image that has been sent counts no more");
    }

    /// Four clients with twenty filters each of sixty patterns of two hundred pieces kept the publisher, and so
    /// everybody, waiting for minutes; one with a hundred windows of ten thousand rows held 390 MB.
    #[test]
    fn what_a_session_costs_others_has_a_bound() {
        let hub = ample_hub();
        publish(&hub, 1, "+keyed(1,ann)");
        let limits = SessionLimits { filter_weight_max: 20, window_rows_max: 12_000, ..SessionLimits::default() };
        let mut session = Session::with_limits(Arc::clone(&hub), Arc::new(limits.clone()));
        let ask = |session: &mut Session, id: &str, what: &str| {
            session.receive(&format!(r#"{{"op":"subscribe","id":"{id}","projection":"keyed",{what}}}"#));
            let answer: serde_json::Value = serde_json::from_slice(messages(session)[0].json()).expect("JSON");
            answer["code"].as_str().unwrap_or("image").to_owned() + answer["message"].as_str().unwrap_or_default()
        };
        let heavy = "too_heavythis filter weighs 32 where a comparison weighs 1 and a pattern at least 4; those of a \
                     session weigh at most 20 together, and have 0";
        assert_eq!(ask(&mut session, "a", r#""where":{"name":{"_ilike":"%a%b%c%"}}"#), heavy.replace("32", "24"));
        assert_eq!(ask(&mut session, "a", r#""where":{"name":{"_like":"a_"}}"#), heavy);
        assert_eq!(ask(&mut session, "a", r#""where":{"name":{"_like":"%a%"}}"#), "image");
        assert_eq!(ask(&mut session, "b", r#""where":{"_or":[{"id":{"_gt":1}},{"id":{"_lt":0}}]}"#), "image");
        let refused = ask(&mut session, "c", r#""where":{"name":{"_like":"%b%c%d%e%"}}"#);
        assert!(refused.starts_with("too_heavythis filter weighs 16") && refused.ends_with("have 6"), "{refused}");
        session.receive(r#"{"op":"unsubscribe","id":"a"}"#);
        drop(messages(&mut session));
        assert_eq!(ask(&mut session, "c", r#""where":{"name":{"_like":"%b%c%d%e%"}}"#), "image");

        assert_eq!(ask(&mut session, "w", r#""limit":6000"#), "image");
        let refused = ask(&mut session, "x", r#""limit":4001"#);
        assert_eq!(refused.split_once("; ").expect("a number").1, "there are 6000, and this one would have 4001");
        let mut other = Session::with_limits(Arc::clone(&hub), Arc::new(limits));
        assert_eq!(ask(&mut other, "w", r#""limit":6000"#), "image", "the very same, which costs nothing");
        let mut third = Session::new(Arc::clone(&hub));
        assert_eq!(ask(&mut third, "w", r#""limit":6001"#), "image");
        assert!(ask(&mut other, "x", r#""limit":10"#).starts_with("busy"));
        assert_eq!(hub.window_rows(), 12_001);
        drop(third);
        assert_eq!(ask(&mut other, "x", r#""limit":10"#), "image");
        assert_eq!(hub.window_rows(), 6010, "of those that are gone nothing counts");
    }

    /// A client with a window that broke off and came back was told that it had resumed, and at the next
    /// change that it was too far behind: nobody had kept its window. And one whose window lost more rows at
    /// once than are held behind it began anew. Both are told what differs.
    #[test]
    fn a_window_is_told_by_what_differs() {
        let hub = ample_hub();
        let rows: Vec<String> = (10..200).map(|id| format!("+keyed({id},n{id})")).collect();
        publish(&hub, 1, &rows.join(" "));
        let ask = r#"{"op":"subscribe","id":"w","projection":"keyed","limit":3"#;
        let come_back = |told: &[Message]| {
            let mut resume = serde_json::Map::new();
            for message in told {
                let message: serde_json::Value = serde_json::from_slice(message.json()).expect("JSON");
                let known = ["cursor", "view"].iter().filter_map(|name| Some((*name, message.get(*name)?.clone())));
                resume.extend(known.map(|(name, value)| (name.to_owned(), value)));
            }
            let mut session = Session::new(Arc::clone(&hub));
            session.receive(&format!(r#"{ask},"resume":{}}}"#, serde_json::Value::from(resume)));
            (messages(&mut session), session)
        };
        let mut session = Session::new(Arc::clone(&hub));
        session.receive(&format!("{ask}}}"));
        let first = messages(&mut session);
        drop(session);
        let (again, mut session) = come_back(&first);
        publish(&hub, 2, "+keyed(1,new) -keyed(11,n11) -keyed(150,n150)");
        let next = advance(&mut session);
        drop(session);
        publish(&hub, 3, "-keyed(10,n10) +keyed(10,ten) -keyed(12,n12) +keyed(160,other)");
        let (later, mut session) = come_back(&[&again[..], &next].concat());
        let many: Vec<String> = (13..90).map(|id| format!("-keyed({id},n{id})")).collect();
        publish(&hub, 4, &many.join(" "));
        let used_up = advance(&mut session);
        publish(&hub, 5, "-keyed(1,new)");
        let after = advance(&mut session);
        expect![[r#"
            {"op":"image","id":"w","projection":"keyed","key":["id"],"order":[],"epoch":1@1,"rows":[[10,"n10"],[11,"n11"],[12,"n12"]],"last":true}
            {"op":"image","id":"w","projection":"keyed","key":["id"],"order":[],"resumed":true,"epoch":1@1,"rows":[],"last":true}
            {"op":"diff","epoch":2@2,"diffs":[{"id":"w","upsert":[[1,"new"]],"delete":[[11]]}],"last":true}
            {"op":"image","id":"w","projection":"keyed","key":["id"],"order":[],"resumed":true,"epoch":3@3,"rows":[],"upsert":[[10,"ten"],[13,"n13"]],"delete":[[12]],"last":true}
            {"op":"image","id":"w","projection":"keyed","key":["id"],"order":[],"resumed":true,"rows":[],"last":false}
            {"op":"image","id":"w","epoch":4@4,"rows":[],"upsert":[[90,"n90"]],"delete":[[13]],"last":true}
            {"op":"diff","epoch":5@5,"diffs":[{"id":"w","upsert":[[91,"n91"]],"delete":[[1]]}],"last":true}
        "#]]
        .assert_eq(&sent([first, again, next, later, used_up, after].concat()).replace(SHAPE, ""));
    }

    #[test]
    fn a_session_has_a_number_of_subscriptions() {
        let mut session = Session::new(ample_hub());
        for i in 0..SessionLimits::default().subscriptions_max {
            assert_eq!(session.subscriptions(), i);
            subscribe(&mut session, &i.to_string(), "bag");
        }
        expect![[r#"
            {"op":"error","id":"more","code":"too_many_subscriptions","message":"a session has at most 100 subscriptions"}
        "#]]
        .assert_eq(&sent(subscribe(&mut session, "more", "bag")));
        assert_eq!(session.subscriptions(), 100);
    }

    #[test]
    fn the_most_eager_projection_sets_the_pace() {
        let slow = |name: &str, millis| Projection { batch: Duration::from_millis(millis), ..projection(name, None) };
        let mut session = Session::new(hub_of(vec![slow("slow", 500), slow("slower", 900)]));
        assert_eq!(session.interval(), Duration::ZERO);
        subscribe(&mut session, "a", "slower");
        assert_eq!(session.interval(), Duration::from_millis(900));
        subscribe(&mut session, "b", "slow");
        assert_eq!(session.interval(), Duration::from_millis(500));
    }

    #[test]
    fn a_failed_projection_says_so_once_and_heals() {
        check(
            r#"subscribe a keyed
               fail 1 keyed two rows have the key id = 7
               advance
               fail 2 keyed two rows have the key id = 7
               advance
               subscribe b keyed
               subscribe c bag
               publish 3 +keyed(7,ann)
               advance
               fail 4 keyed two rows have the key id = 7
               advance"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
                {"op":"error","id":"b","code":"projection_failed","message":"two rows have the key id = 7"}
                {"op":"image","id":"c","projection":"bag","key":null,"order":[],"epoch":2@2,"rows":[],"last":true}
                {"op":"diff","epoch":3@3,"diffs":[{"id":"a","upsert":[[7,"ann"]]}],"last":true}
                {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
            "#]],
        );
    }

    /// A view that was made while an epoch was on its way to be seen was not among those that were told
    /// of it, and its image was of the epoch before: its client waited for the next heartbeat.
    #[test]
    fn who_comes_while_an_epoch_is_under_way_is_told_of_it() {
        let changes: String = (0..400).map(|id| format!("+keyed({id},ann) ")).collect();
        for round in 0..200 {
            let hub = ample_hub();
            publish(&hub, 1, "+bag(5,x)");
            let (publishing, changes) = (Arc::clone(&hub), changes.clone());
            let started = Arc::new(std::sync::Barrier::new(2));
            let ready = Arc::clone(&started);
            let publisher = std::thread::spawn(move || {
                ready.wait();
                publish(&publishing, 2, &changes);
            });
            started.wait();
            std::thread::sleep(Duration::from_micros(round * 20));
            let mut session = Session::new(hub);
            let filter = r#"{"id":{"_gte":0}}"#;
            session.receive(&format!(r#"{{"op":"subscribe","id":"a","projection":"keyed","where":{filter}}}"#));
            let mut told = sent(messages(&mut session));
            publisher.join().expect("no panic");
            while session.signal().take() {
                told += &sent(advance(&mut session));
            }
            assert!(told.contains("[399,"), "round {round}: {}", told.len());
        }
    }

    /// Clients that ask the same at the same moment are sent the very same bytes, images and diffs: made
    /// once, and compressed once.
    #[test]
    fn equal_clients_share_their_messages() {
        let hub = ample_hub();
        publish(&hub, 1, "+keyed(1,ann)");
        let mut clients: Vec<Session> = (0..3).map(|_| Session::new(Arc::clone(&hub))).collect();
        let address = |message: &Message| message.frame().as_ptr() as usize;
        for (i, session) in clients.iter_mut().enumerate() {
            let id = if i == 2 { "another" } else { "a" };
            session.receive(&format!(r#"{{"op":"subscribe","id":"{id}","projection":"keyed"}}"#));
        }
        let images: Vec<Message> = clients.iter_mut().flat_map(messages).collect();
        let places: Vec<usize> = images.iter().map(address).collect();
        assert_eq!((images.len(), places[0] == places[1], places[0] == places[2]), (3, true, false));
        assert!(images.iter().all(|image| text(image.json()).contains(r#""rows":[[1,"ann"]]"#)));
        publish(&hub, 2, "-keyed(1,ann) +keyed(1,eve)");
        let diffs: Vec<Message> = clients.iter_mut().flat_map(advance).collect();
        let places: Vec<usize> = diffs.iter().map(address).collect();
        assert_eq!((diffs.len(), places[0] == places[1], places[0] == places[2]), (3, true, false));
        // One who begins anew is told so, and is not sent what the others were.
        let resume = r#"{"op":"subscribe","id":"a","projection":"keyed","resume":{"cursor":"x","view":"y"}}"#;
        let mut late = Session::new(Arc::clone(&hub));
        late.receive(resume);
        assert!(text(messages(&mut late)[0].json()).contains(r#""reset":"view""#));
    }

    /// A source that is lost is told to those who see what it feeds, once, and so is that it is back;
    /// who comes meanwhile hears it too.
    #[test]
    fn who_sees_what_may_be_old_is_told() {
        check(
            r#"subscribe a keyed
               subscribe b bag
               stale keyed
               advance
               subscribe c keyed
               publish 1 +bag(5,x)
               advance
               {"op":"unsubscribe","id":"c"}
               stale
               advance
               advance"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"image","id":"b","projection":"bag","key":null,"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"stale","message":"lost","id":"a"}
                {"op":"stale","message":"lost","id":"c"}
                {"op":"image","id":"c","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"diff","epoch":1@1,"diffs":[{"id":"b","count":[[1,[5,"x"]]]}],"last":true}
                {"op":"unsubscribed","id":"c"}
                {"op":"fresh","id":"a"}
            "#]],
        );
    }

    /// The failure was remembered by projection: of two subscriptions to it, as of two panels of a
    /// page, only the first was told.
    #[test]
    fn every_subscription_of_a_failed_projection_is_told() {
        check(
            r#"subscribe a keyed
               subscribe b keyed
               fail 1 keyed two rows have the key id = 7
               advance
               advance"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"image","id":"b","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
                {"op":"error","id":"b","code":"projection_failed","message":"two rows have the key id = 7"}
            "#]],
        );
    }

    /// And it was remembered when the subscription was gone: one of the same projection that came
    /// after it had healed was not told of the next failure.
    #[test]
    fn a_failure_is_forgotten_with_its_subscription() {
        check(
            r#"subscribe a keyed
               fail 1 keyed two rows have the key id = 7
               advance
               {"op":"unsubscribe","id":"a"}
               publish 2 +keyed(7,ann)
               subscribe a keyed
               fail 3 keyed two rows have the key id = 7
               advance"#,
            expect![[r#"
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":0,"rows":[],"last":true}
                {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
                {"op":"unsubscribed","id":"a"}
                {"op":"image","id":"a","projection":"keyed","key":["id"],"order":[],"epoch":2@2,"rows":[[7,"ann"]],"last":true}
                {"op":"error","id":"a","code":"projection_failed","message":"two rows have the key id = 7"}
            "#]],
        );
    }
}
