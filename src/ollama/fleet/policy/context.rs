//! The context size of a model in memory, and which requests make its server load it again.
//!
//! A runner of Ollama has the `num_ctx` of the request that has loaded it. A request with another
//! `num_ctx` loads the model again, for all clients: also a smaller one, and also one without
//! `num_ctx` if the runner was not loaded without. So the gateway may send another `num_ctx` than
//! the client has asked for, if the client gets no smaller context by that.
//!
//! The list of a server shows the size of a runner, and not the `num_ctx` that it was loaded with:
//! a `num_ctx` above the model's own context is cut to that, and still has to be the same. So what
//! was sent last counts more than the list, as long as such a cut can explain the difference.

use tokio::time::Instant;

/// No model's own context is smaller, in tokens.
const SMALLEST_OWN: u64 = 128;

/// What is known of the context of a model on one server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Context {
    /// The `num_ctx` of the runner, which is that of the last good response: `Some(None)` if it
    /// had none, `None` if it is not known.
    runner: Option<Option<u64>>,
    /// Since when.
    since: Option<Instant>,
    /// The size without `num_ctx`, which depends on the server's settings and the model's file.
    default: Option<u64>,
}

/// What happens to a request at a server that has the model in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContextPlan {
    /// The `num_ctx` to send.
    pub(crate) num_ctx: Option<u64>,
    /// The server will load the model again.
    pub(crate) reloads: bool,
}

impl Context {
    /// What to send to a runner of this size, if the server tells it, for a request with this
    /// `num_ctx`.
    pub(crate) fn plan(
        &self,
        num_ctx: Option<u64>,
        may_change: bool,
        size: Option<u64>,
    ) -> ContextPlan {
        // Nearly all requests.
        if self.runner == Some(num_ctx) {
            return ContextPlan {
                num_ctx,
                reloads: false,
            };
        }
        let of_runner = self.runner.or_else(|| self.guessed(size));
        match of_runner {
            Some(of_runner) if may_change && self.is_enough(of_runner, num_ctx) => ContextPlan {
                num_ctx: of_runner,
                reloads: false,
            },
            _ => ContextPlan {
                num_ctx,
                reloads: self.differs(num_ctx, size),
            },
        }
    }

    /// What to send to a server that has to load the model: no `num_ctx` if the default is large
    /// enough, because then the other requests, and dialects without `num_ctx`, fit too.
    pub(crate) fn num_ctx_of_load(&self, num_ctx: Option<u64>, may_change: bool) -> Option<u64> {
        num_ctx.filter(|_| !(may_change && self.is_enough(None, num_ctx)))
    }

    /// The `num_ctx` of a runner of this size that the gateway has not loaded.
    fn guessed(&self, size: Option<u64>) -> Option<Option<u64>> {
        let size = size?;
        Some((self.default != Some(size)).then_some(size))
    }

    /// Whether a client that asks for one `num_ctx` gets no smaller context by another one.
    fn is_enough(&self, sent: Option<u64>, asked: Option<u64>) -> bool {
        if sent == asked {
            return true;
        }
        let (sent, asked) = (self.size_of(sent), self.size_of(asked));
        sent.zip(asked).is_some_and(|(sent, asked)| sent >= asked)
    }

    /// Whether a request with this `num_ctx`, sent as it is, would load the model again.
    fn differs(&self, num_ctx: Option<u64>, size: Option<u64>) -> bool {
        let asked = self.size_of(num_ctx);
        match self.runner {
            Some(runner) if runner == num_ctx => false,
            Some(runner) => asked.is_none() || asked != self.size_of(runner),
            None => asked.zip(size).is_some_and(|(asked, size)| asked != size),
        }
    }

    /// The size of a runner that is loaded with this `num_ctx`, if it is known.
    fn size_of(&self, num_ctx: Option<u64>) -> Option<u64> {
        num_ctx.or(self.default)
    }

    /// The expected size of the runner.
    pub(crate) fn expected(&self) -> Option<u64> {
        self.size_of(self.runner?)
    }

    /// Records a good response to a request with this `num_ctx`. Returns whether the runner has
    /// changed.
    pub(crate) fn answered(&mut self, num_ctx: Option<u64>, now: Instant) -> bool {
        let has_changed = self.runner != Some(num_ctx);
        if has_changed {
            (self.runner, self.since) = (Some(num_ctx), Some(now));
        }
        has_changed
    }

    /// Records the size that a server has listed; it was asked at this time.
    pub(crate) fn listed(&mut self, size: Option<u64>, asked: Instant) {
        let Some(size) = size else { return };
        if self.since.is_some_and(|since| since > asked) {
            return;
        }
        match (self.runner, self.default) {
            (Some(None), None) => self.default = Some(size),
            // The server's settings have changed, or somebody else has loaded the model.
            (Some(None), Some(default)) if size < default => {
                (self.runner, self.default) = (None, None);
            }
            // Neither: the model's own context is at least that large.
            (Some(Some(sent)), default) if size < sent.min(default.unwrap_or(SMALLEST_OWN)) => {
                self.runner = None;
            }
            // Somebody else has loaded it.
            (Some(runner), _) if self.size_of(runner).is_some_and(|known| size > known) => {
                self.runner = None;
            }
            _ => {}
        }
    }

    /// Forgets the runner, because the model was unloaded.
    pub(crate) fn unloaded(&mut self) {
        self.runner = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// A model on a server.
    #[derive(Debug)]
    struct Server {
        /// The `num_ctx` of requests without one.
        default: u64,
        /// The largest size of the model.
        largest: u64,
        /// The `num_ctx` of the runner.
        runner: u64,
        loads: usize,
    }

    impl Server {
        fn new(default: u64, largest: u64) -> Self {
            Self {
                default,
                largest,
                runner: 0,
                loads: 0,
            }
        }

        /// The `num_ctx` of a runner for this request.
        fn runner_of(&self, num_ctx: Option<u64>) -> u64 {
            let num_ctx = num_ctx.unwrap_or(self.default);
            // What does not fit into the server's integer is negative there.
            i64::try_from(num_ctx).map_or(4, |_| num_ctx.max(4))
        }

        fn size_of(&self, num_ctx: Option<u64>) -> u64 {
            self.runner_of(num_ctx).min(self.largest)
        }

        /// Serves a request; returns whether it loads the model.
        fn serve(&mut self, num_ctx: Option<u64>) -> bool {
            let wanted = self.runner_of(num_ctx);
            let loads = wanted != self.runner;
            self.runner = wanted;
            self.loads += usize::from(loads);
            loads
        }

        fn size(&self) -> u64 {
            self.runner.min(self.largest)
        }
    }

    /// A gateway before such a server.
    #[derive(Debug)]
    struct Gateway {
        context: Context,
        server: Server,
        listed: Option<u64>,
        now: Instant,
    }

    impl Gateway {
        fn new(server: Server) -> Self {
            Self {
                context: Context::default(),
                server,
                listed: None,
                now: Instant::now(),
            }
        }

        /// Sends a request, and reads the list after it if the size has changed. Returns what was
        /// sent, and whether it has loaded the model.
        fn ask(&mut self, num_ctx: Option<u64>, may_change: bool) -> (Option<u64>, bool) {
            self.now += Duration::from_secs(1);
            let plan = self.context.plan(num_ctx, may_change, self.listed);
            let loads = self.server.serve(plan.num_ctx);
            if self.context.answered(plan.num_ctx, self.now) {
                self.list();
            }
            (plan.num_ctx, loads)
        }

        fn list(&mut self) {
            self.now += Duration::from_secs(1);
            self.listed = Some(self.server.size());
            self.context.listed(self.listed, self.now);
        }
    }

    fn plan(context: &Context, num_ctx: Option<u64>, size: u64) -> (Option<u64>, bool) {
        let plan = context.plan(num_ctx, true, Some(size));
        (plan.num_ctx, plan.reloads)
    }

    #[test]
    fn a_request_gets_the_context_in_memory_if_that_is_large_enough() {
        let mut gateway = Gateway::new(Server::new(4096, 131_072));
        assert_eq!(gateway.ask(None, true), (None, true));
        assert_eq!(gateway.ask(Some(2048), true), (None, false));
        assert_eq!(gateway.ask(Some(16_384), true), (Some(16_384), true));
        for smaller in [Some(8192), Some(16_384), None] {
            assert_eq!(gateway.ask(smaller, true), (Some(16_384), false));
        }
    }

    #[test]
    fn a_request_that_must_not_be_changed_gets_what_it_asks_for_and_the_load_is_foreseen() {
        let mut gateway = Gateway::new(Server::new(4096, 131_072));
        gateway.ask(None, false);
        for (num_ctx, loads) in [
            (None, false),
            (Some(4096), false),
            (Some(2048), true),
            (Some(8192), true),
            (None, true),
        ] {
            let foreseen = gateway.context.plan(num_ctx, false, gateway.listed).reloads;
            let is_other_number = gateway.server.runner != num_ctx.unwrap_or(4096);
            assert_eq!((foreseen, is_other_number), (loads, loads), "{num_ctx:?}");
            assert_eq!(gateway.ask(num_ctx, false), (num_ctx, loads));
        }
    }

    #[test]
    fn the_models_own_context_may_be_smaller_than_the_servers_default() {
        // The list shows 2048, and still `num_ctx: 2048` would load the model again.
        let mut gateway = Gateway::new(Server::new(4096, 2048));
        gateway.ask(None, true);
        assert_eq!(gateway.ask(Some(2048), true), (None, false));
        assert_eq!(gateway.ask(Some(1024), true), (None, false));
        assert_eq!(gateway.ask(Some(8192), true), (Some(8192), true));
        for num_ctx in [Some(8192), Some(4096), Some(2048), None] {
            assert_eq!(gateway.ask(num_ctx, true), (Some(8192), false));
        }
    }

    #[test]
    fn a_model_is_loaded_with_its_default_if_that_is_large_enough() {
        let mut gateway = Gateway::new(Server::new(4096, 131_072));
        assert_eq!(
            gateway.context.num_ctx_of_load(Some(2048), true),
            Some(2048)
        );
        gateway.ask(None, true);
        gateway.context.unloaded();
        for (num_ctx, may_change, sent) in [
            (Some(2048), true, None),
            (Some(4096), true, None),
            (Some(8192), true, Some(8192)),
            (Some(2048), false, Some(2048)),
            (None, true, None),
        ] {
            assert_eq!(gateway.context.num_ctx_of_load(num_ctx, may_change), sent);
        }
    }

    #[test]
    fn a_runner_that_others_have_loaded_is_known_by_its_size() {
        let context = Context::default();
        assert_eq!(plan(&context, Some(4096), 8192), (Some(8192), false));
        assert_eq!(plan(&context, Some(16_384), 8192), (Some(16_384), true));
        // It is probably the default, and if not, this request shows what the default is.
        assert_eq!(plan(&context, None, 8192), (None, false));

        let mut gateway = Gateway::new(Server::new(4096, 131_072));
        gateway.ask(None, true);
        gateway.server.serve(Some(8192));
        gateway.list();
        for num_ctx in [None, Some(4096), Some(2048)] {
            assert_eq!(gateway.ask(num_ctx, true), (Some(8192), false));
        }
    }

    #[test]
    fn a_default_that_others_have_changed_is_learned_again() {
        let mut gateway = Gateway::new(Server::new(8192, 131_072));
        gateway.ask(None, true);
        gateway.server.default = 4096;
        gateway.server.serve(None);
        gateway.list();
        assert_eq!(gateway.ask(None, true), (None, false));
        gateway.list();
        assert_eq!(gateway.ask(Some(6000), true), (Some(6000), true));
    }

    #[test]
    fn a_list_that_was_asked_for_before_the_last_change_does_not_count() {
        let (mut context, before) = (Context::default(), Instant::now());
        context.answered(None, before + Duration::from_secs(1));
        context.listed(Some(512), before);
        assert_eq!(context.expected(), None);
    }

    #[test]
    fn a_size_that_no_cut_explains_is_believed() {
        for knows_default in [false, true] {
            let mut gateway = Gateway::new(Server::new(4096, 131_072));
            if knows_default {
                gateway.ask(None, true);
            }
            // Its server takes this for another number.
            gateway.ask(Some(u64::MAX), true);
            for num_ctx in [Some(1024), None] {
                let (sent, _) = gateway.ask(num_ctx, true);
                let size = gateway.server.size_of(sent);
                assert!(
                    size >= gateway.server.size_of(num_ctx),
                    "{num_ctx:?}: {size}"
                );
            }
            assert!(
                !gateway.ask(Some(1024), true).1,
                "it knows the runner again"
            );
        }
    }

    /// What the gateway takes for a size, most of them within the usual range.
    fn any_size() -> impl Strategy<Value = u64> {
        let blocks = (1..20u64).prop_map(|blocks| blocks * 1024);
        prop_oneof![4 => blocks, 1 => 4..2000u64, 1 => 20_480..=i32::MAX as u64]
    }

    /// What others may send past the gateway.
    fn any_number() -> impl Strategy<Value = u64> {
        prop_oneof![4 => any_size(), 1 => any::<u64>(), 1 => 0..4u64]
    }

    proptest! {
        /// Others use the server too, and the list is read at any time.
        #[test]
        fn no_request_gets_less_context_than_it_asks_for(
            default in prop::sample::select(vec![2048u64, 4096, 32_768]),
            largest in prop::sample::select(vec![2048u64, 8192, 131_072]),
            steps in prop::collection::vec(
                (0..4u8, prop::option::of(any_size()), prop::option::of(any_number())),
                1..40,
            ),
        ) {
            let mut gateway = Gateway::new(Server::new(default, largest));
            for (what, num_ctx, of_others) in steps {
                match what {
                    0 => gateway.list(),
                    1 => { gateway.server.serve(of_others); }
                    _ => {
                        let (sent, _) = gateway.ask(num_ctx, true);
                        let sizes = [sent, num_ctx].map(|num_ctx| gateway.server.size_of(num_ctx));
                        prop_assert!(sizes[0] >= sizes[1], "{:?} for {:?}", sent, num_ctx);
                    }
                }
            }
        }

        /// Each load makes the context larger, except the first ones, which show the default.
        #[test]
        fn a_model_is_loaded_again_only_for_a_larger_context(
            default in prop::sample::select(vec![2048u64, 4096, 32_768]),
            largest in prop::sample::select(vec![2048u64, 8192, 131_072]),
            asked in prop::collection::vec(prop::option::of(any_size()), 1..60),
        ) {
            let mut gateway = Gateway::new(Server::new(default, largest));
            let mut last = None;
            let mut has_shown_default = false;
            for num_ctx in asked {
                let (sent, loads) = gateway.ask(num_ctx, true);
                // As far as the lists show it.
                let size = sent.unwrap_or(default.min(largest));
                let is_larger = last.is_none_or(|last| size > last);
                prop_assert!(!loads || is_larger || !has_shown_default, "{:?}", sent);
                has_shown_default |= sent.is_none();
                last = Some(size);
            }
        }
    }
}
