//! In debug builds, warns about layers in an order that breaks them.
//!
//! A layer sees what is inside of it when it is put around a service: the service's type names the
//! layers. A type that hides them, like tower's `BoxService` or axum's `Router`, hides the order too.
//! Each rule is reported once per process, as a warning of `tracing`. Release builds
//! contain none of this.

/// Warns if `S`, the service inside of a layer, contains a layer that belongs outside of it.
#[cfg(not(debug_assertions))]
#[inline]
pub(crate) fn check<S>(_: &'static str) {}

#[cfg(debug_assertions)]
pub(crate) use checked::check;

#[cfg(debug_assertions)]
mod checked {
    use std::sync::atomic::{AtomicBool, Ordering};

    /// `outer` belongs outside of each of `inner`; names without `Layer` and `Service`.
    struct Rule {
        outer: &'static str,
        inner: &'static [&'static str],
        /// What happens in the other order.
        otherwise: &'static str,
        was_reported: AtomicBool,
    }

    const fn rule(
        outer: &'static str,
        inner: &'static [&'static str],
        otherwise: &'static str,
    ) -> Rule {
        Rule {
            outer,
            inner,
            otherwise,
            was_reported: AtomicBool::new(false),
        }
    }

    static RULES: [Rule; 11] = [
        rule(
            "Endpoint",
            &["Outcome", "Rescue"],
            "errors are sent as plain text, and records have no route",
        ),
        rule("Endpoint", &["RequireEndpoint"], "no path is refused"),
        rule(
            "Endpoint",
            &["ApiKey", "BodyLimit", "LlmRequest", "Retry", "Usage"],
            "it does not know the route, and treats every request like one without",
        ),
        rule(
            "Outcome",
            &["Rescue"],
            "the records of refused requests have no status",
        ),
        rule(
            "Rescue",
            &[
                "RequireEndpoint",
                "PanicGuard",
                "ApiKey",
                "RateLimit",
                "Admission",
                "Adaptive",
                "KeyConcurrency",
                "BodyLimit",
                "LlmRequest",
                "Cache",
                "TokenLimit",
                "ModelAlias",
                "Retry",
                "Queue",
                "Breaker",
                "StreamClocks",
                "Heartbeat",
                "Forward",
            ],
            "its errors do not become responses",
        ),
        rule(
            "LlmRequest",
            &["Heartbeat", "Cache", "ModelAlias"],
            "it does not know the model, and does nothing",
        ),
        rule(
            "Heartbeat",
            &["KeyConcurrency", "Queue"],
            "no heartbeat is sent while a request waits",
        ),
        rule(
            "KeyConcurrency",
            &["Retry", "Queue"],
            "requests that wait for their key stand in the queue before others, and each attempt waits anew",
        ),
        rule("TokenLimit", &["Usage"], "no tokens are counted"),
        rule(
            "ModelAlias",
            &["Retry"],
            "each retry begins with the first model of an alias again",
        ),
        rule(
            "Retry",
            &["Breaker"],
            "all attempts count as a single request",
        ),
    ];

    /// Warns if `S`, the service inside of `layer`, contains a layer that belongs outside of it.
    pub(crate) fn check<S>(layer: &'static str) {
        for rule in broken(layer, std::any::type_name::<S>()) {
            if !rule.was_reported.swap(true, Ordering::Relaxed) {
                let Rule {
                    outer, otherwise, ..
                } = rule;
                tracing::warn!(
                    "{layer}Layer is outside of {outer}Layer, but belongs inside of it: {otherwise}"
                );
            }
        }
    }

    /// The rules that `layer` breaks around a service of this type.
    fn broken(layer: &str, service: &'static str) -> impl Iterator<Item = &'static Rule> {
        let of_layer = RULES.iter().filter(move |rule| rule.inner.contains(&layer));
        of_layer.filter(move |rule| contains(service, rule.outer))
    }

    /// Whether a layer of this crate is in the name of a service's type.
    fn contains(service: &str, layer: &str) -> bool {
        let suffix = format!("::{layer}Service");
        let paths = service.split(['<', '>', ',', ' ', '(', ')', '&']);
        paths
            .filter(|path| path.starts_with(concat!(env!("CARGO_CRATE_NAME"), "::")))
            .any(|path| path.ends_with(&suffix))
    }

    #[cfg(all(test, feature = "full"))]
    mod tests {
        use std::num::NonZeroUsize;

        use tower::{Layer, service_fn};

        use super::*;
        use crate::EndpointTable;
        use crate::admission::AdmissionLayer;
        use crate::breaker::{Breaker, BreakerLayer, BreakerPolicy};
        use crate::endpoint::EndpointLayer;
        use crate::rescue::RescueLayer;
        use crate::retry::{RetryBudget, RetryLayer};

        fn name_of<S>(_: &S) -> &'static str {
            std::any::type_name::<S>()
        }

        fn pairs(layer: &'static str, service: &'static str) -> Vec<&'static str> {
            broken(layer, service).map(|rule| rule.outer).collect()
        }

        #[test]
        fn a_layer_around_one_that_belongs_outside_of_it_is_found() {
            let model = || service_fn(async |_: ()| Ok::<_, ()>(()));
            let endpoint = EndpointLayer::new(EndpointTable::ollama());
            let inside = AdmissionLayer::new(NonZeroUsize::MIN).layer(endpoint.layer(model()));
            assert_eq!(pairs("Rescue", name_of(&inside)), ["Endpoint"]);
            assert_eq!(
                pairs("Admission", name_of(&endpoint.layer(model()))),
                [""; 0]
            );

            let retry = RetryLayer::new(RetryBudget::default());
            let retry = retry.layer(RescueLayer::new().layer(model()));
            assert_eq!(pairs("Breaker", name_of(&retry)), ["Rescue", "Retry"]);
        }

        #[test]
        fn the_right_order_breaks_no_rule() {
            let model = service_fn(async |_: ()| Ok::<_, ()>(()));
            let breaker = BreakerLayer::new(Breaker::new(BreakerPolicy::default())).layer(model);
            let retry = RetryLayer::new(RetryBudget::default());
            assert_eq!(pairs("Retry", name_of(&breaker)), [""; 0]);
            let retry = retry.layer(breaker);
            assert_eq!(pairs("Rescue", name_of(&retry)), [""; 0]);
            let rescue = RescueLayer::new().layer(retry);
            assert_eq!(pairs("Endpoint", name_of(&rescue)), [""; 0]);
        }

        #[test]
        fn the_order_of_the_front_page_breaks_no_rule() {
            let page = include_str!("lib.rs");
            let rows = page.lines().filter_map(|line| {
                let (name, _) = line.strip_prefix("//! | [`")?.split_once("Layer`]")?;
                Some(name)
            });
            let order: Vec<_> = rows.collect();
            assert!(order.len() >= 17, "{order:?}");
            for rule in &RULES {
                let place = |name| order.iter().position(|layer| *layer == name);
                for inner in rule.inner {
                    if let (Some(outer), Some(inner)) = (place(rule.outer), place(inner)) {
                        assert!(outer < inner, "{} and {}", order[outer], order[inner]);
                    }
                }
            }
        }
    }
}
