#pragma once

#include "core/reference_pool.hpp"

#include <array>
#include <cstdint>
#include <random>
#include <span>

namespace core_test {

/// Where a history's choices come from: a seed; or first a fuzzer's bytes, one a choice where that is enough, and then a seed.
class choices {
public:
    explicit choices(std::uint64_t seed) : random_(seed) {}
    explicit choices(std::span<const std::uint8_t> bytes) : random_(1), bytes_(bytes), given_(true) {}

    std::size_t below(std::size_t n) {
        if (bytes_.empty()) return static_cast<std::size_t>(random_() % n);
        std::size_t drawn = take();
        if (n > 256 && !bytes_.empty()) drawn = drawn << 8U | take();
        return drawn % n;
    }
    bool spent() const noexcept { return given_ && bytes_.empty(); }

private:
    std::size_t take() {
        const auto byte = bytes_.front();
        bytes_ = bytes_.subspan(1);
        return byte;
    }

    std::mt19937_64 random_;
    std::span<const std::uint8_t> bytes_;
    bool given_ = false;
};

/// Whom the histories talk to: shared hosts, identities that must not be mixed, keys that rotate behind one label, jump hosts.
inline const std::vector<target>& all_targets() {
    static const std::vector<target> targets = [] {
        const auto policy = host_key_policy::accept_any();
        const auto as = [](const char* secret) { return credentials::password(secret); };
        const auto rotating = [](const char* secret) { return credentials::password(secret).as_principal("team"); };
        std::vector<target> t;
        t.emplace_back("root@a:22", as("one"), policy);
        t.emplace_back("root@a:22", as("two"), policy);
        t.emplace_back("root@a:22", rotating("three"), policy);
        t.emplace_back("root@a:22", rotating("four"), policy);
        t.emplace_back("user@a:22", as("one"), policy);
        t.emplace_back("root@b:22", as("one"), policy);
        t.emplace_back("root@c:22", as("one"), policy);
        t.emplace_back("root@d:22", rotating("three"), policy);
        t.emplace_back(target{"root@e:22", as("one"), policy}.via(t[0]));
        t.emplace_back(target{"root@e:22", as("one"), policy}.via(t[5]));
        t.emplace_back(target{"root@f:22", as("one"), policy}.via(t[2]));
        t.emplace_back(target{"root@f:22", as("one"), policy}.via(t[3]));
        t.emplace_back(target{"root@g:22", as("two"), policy}.via(t[8]));
        t.emplace_back(target{"root@a:22", as("two"), policy}.via(t[0]));
        return t;
    }();
    return targets;
}

/// One random history of a pool: a driver, a world and the callers in one, all from a seed or from bytes. The reference pool looks on.
class random_history {
public:
    explicit random_history(std::uint64_t seed, bool log = false) : random_history(choices{seed}, seed, log) {}
    explicit random_history(std::span<const std::uint8_t> bytes, bool log = false) : random_history(choices{bytes}, 1, log) {}

    /// Empty, or what went wrong. Bytes that are spent end the history before its last step.
    std::string run(std::size_t steps) {
        for (std::size_t i = 0; i < steps && ref_.wrong.empty() && !random_.spent(); ++i) step();
        if (ref_.wrong.empty()) finish();
        return ref_.wrong.empty() ? std::string{} : ref_.wrong + "\n" + describe() + log_.str();
    }

private:
    random_history(choices from, std::uint64_t jitter, bool log) : random_(from), logging_(log), ref_(draw_params()), core_(ref_.params, jitter) {
        ref_.pinned_unseen = [this](const target& to) { return may_be_pinned(to); };
    }

    using conn = seen_connection;

    std::string describe() const {
        const auto& p = ref_.params;
        std::ostringstream out;
        out << "max_connections " << p.max_connections << ", per host " << p.max_connections_per_host << ", leases " << p.leases_per_connection
            << ", handshakes " << p.max_handshakes << ", per host " << p.max_handshakes_per_host << ", ttl " << p.connection_ttl.count() << " ms, idle "
            << p.idle_timeout.count() << " ms, health " << p.health_check_interval.count() << " ms, when_full " << static_cast<int>(p.when_full)
            << ", unpooled " << p.max_unpooled << ", backoff " << p.backoff_initial.count() << " ms x " << p.backoff_factor << " to " << p.backoff_max.count()
            << " ms, cooldown " << p.auth_cooldown.count() << " ms, busy retries " << p.max_busy_retries << ", when_backing_off "
            << static_cast<int>(p.when_backing_off) << ", lease " << p.max_lease_time.count() << " ms\n";
        std::set<std::string> keys;
        for (const auto index : targets_) keys.insert(all_targets()[index].key());
        for (const auto& key : keys) out << core_.explain(key, now_);
        return out.str();
    }

    std::size_t below(std::size_t n) { return random_.below(n); }
    bool one_in(std::size_t n) { return below(n) == 0; }
    std::chrono::milliseconds ms(std::size_t from, std::size_t to) { return std::chrono::milliseconds{from + below(to - from + 1)}; }

    pool_params draw_params() {
        pool_params p;
        p.max_connections = 1 + below(6);
        p.max_connections_per_host = 1 + below(3);
        p.leases_per_connection = 1 + below(3);
        p.max_handshakes = 1 + below(4);
        p.max_handshakes_per_host = 1 + below(3);
        p.connection_ttl = one_in(3) ? ms(0, 0) : ms(20, 400);
        p.ttl_jitter = one_in(2) ? 0.0 : 0.3;
        p.idle_timeout = one_in(3) ? ms(0, 0) : ms(5, 200);
        p.health_check_interval = one_in(3) ? ms(0, 0) : ms(5, 100);
        p.acquire_timeout = ms(10, 600);
        p.max_unpooled = below(3);
        p.when_full = one_in(6) ? full_policy::fail : one_in(5) ? full_policy::open_unpooled : full_policy::wait;
        p.max_busy_retries = below(4);
        p.backoff_initial = ms(1, 30);
        p.backoff_factor = static_cast<double>(10 + below(21)) / 10;
        p.backoff_max = p.backoff_initial + ms(0, 100);
        p.auth_cooldown = one_in(3) ? ms(0, 0) : ms(1, 100);
        p.when_backing_off = one_in(2) ? backing_off_policy::wait : backing_off_policy::fail;
        if (one_in(3)) p.max_lease_time = ms(1, 60);
        p.connect_timeout = ms(1, 60);
        const auto jumps = p.when_full != full_policy::open_unpooled && one_in(2);
        const auto usable = jumps ? all_targets().size() : 8;
        for (std::size_t i = 0, n = 1 + below(6); i < n; ++i) targets_.push_back(below(usable));
        return p;
    }

    template <class Which>
    conn* some(Which which) {
        std::vector<conn*> found;
        for (auto& c : ref_.connections) {
            if (c.state != conn::gone && which(c)) found.push_back(&c);
        }
        return found.empty() ? nullptr : found[below(found.size())];
    }

    void step() {
        const auto& p = ref_.params;
        const auto pace = below(100);
        if (pace < 30) return acquire();
        if (pace < 44) return release();
        if (pace < 60) return answer_open();
        if (pace < 68) return answer_close();
        if (pace < 73) return answer_probe();
        if (pace < 90) return pass_time();
        if (pace < 93) return cancel();
        if (auto* c = some([](const conn& one) { return one.state == conn::open; })) {
            const auto id = c->id;
            switch (below(8)) {
                case 0:
                    return event("discarded " + std::to_string(id), [&](actions& out) {
                        ref_.retire(*c);
                        core_.discarded(now_, id, out);
                    });
                case 1:
                    return lose(*c);
                case 2: {
                    const auto n = below(p.leases_per_connection + 2);
                    return event("capacity " + std::to_string(id) + " " + std::to_string(n), [&](actions& out) {
                        if (n == 0) {
                            ref_.retire(*c);
                        } else if (!c->retired && !c->unpooled) {
                            c->capacity = std::min(n, p.leases_per_connection);
                            ref_.learned[c->to.key()] = n;
                        }
                        core_.capacity(now_, id, n, out);
                    });
                }
                case 3:
                    return noise(id);
                default:
                    break;
            }
        }
        switch (below(5)) {
            case 0:
                return invalidate();
            case 1:
            case 2:
                return keep_warm();
            case 3:
                return sleep();
            default:
                break;
        }
    }

    void acquire() {
        const auto& to = all_targets()[targets_[below(targets_.size())]];
        const auto how = one_in(8) ? asking::now_or_never : asking::by_policy;
        const auto id = ++last_waiter_;
        seen_waiter w{id, to, now_, now_ + ref_.params.acquire_timeout, how, 0, {}};
        event("acquire " + std::to_string(id) + " " + to.key() + (how == asking::by_policy ? "" : " now"), [&](actions& out) {
            ref_.waiters.push_back(w);
            core_.acquire(now_, id, to, w.deadline, how, std::source_location::current(), out);
        });
        const auto* asked = ref_.find_waiter(id);
        if (how == asking::now_or_never && asked->answers == 0) ref_.blame("a caller who would not wait was queued");
    }
    void release() {
        auto* c = some([](const conn& one) { return !one.leases.empty(); });
        if (c == nullptr) return;
        auto lease = c->leases.begin();
        std::advance(lease, below(c->leases.size()));
        const auto [id, since] = *lease;
        const auto heard = one_in(4) ? now_ - ms(0, 50) : now_;
        event("released " + std::to_string(c->id) + " lease " + std::to_string(id), [&](actions& out) {
            c->leases.erase(id);
            if (c->state == conn::open) {
                c->heard = std::max(c->heard, heard);
                if (c->leases.empty()) c->idle_since = now_;
                ref_.used(*c);
            }
            hold(c->to.key(), now_ - since);
            core_.released(now_, c->id, id, heard, out);
        });
    }
    void answer_open() {
        auto* c = some([](const conn& one) { return one.state == conn::opening && !one.answered; });
        if (c == nullptr) return;
        const auto id = c->id;
        connect_phases phases;
        phases.tcp = ms(0, 3);
        phases.login = one_in(3) ? ms(0, 0) : ms(0, 20);
        if (!one_in(5)) {
            return event("opened " + std::to_string(id) + " in " + in_seconds(phases.total()), [&](actions& out) {
                c->state = conn::open;
                c->answered = true;
                const auto learned = ref_.learned.find(c->to.key());
                c->capacity = std::min(ref_.params.leases_per_connection, learned == ref_.learned.end() ? SIZE_MAX : learned->second);
                c->created = c->heard = c->idle_since = now_;
                c->took = phases.total();
                ref_.used(*c);
                ref_.trouble.opened(c->to, now_);
                ++ref_.created;
                longest_connect_ = std::max(longest_connect_, static_cast<double>(phases.total().count()));
                average_.add(phases.total());
                key_average_[c->to.key()].add(phases.total());
                core_.opened(now_, id, phases, out);
                if (const auto info = core_.info(id)) c->expires = info->expires_at.time_since_epoch();
                if (core_.info(id) && core_.info(id)->expires_at == connection_info::time_point::max()) c->expires = instant::max();
                check_expiry(*c);
                last_opened_[c->to.key() + c->to.match()] = now_;
            });
        }
        const std::array<errc, 6> causes{errc::auth_failed, errc::connect_failed,    errc::server_busy,
                                         errc::server_busy, errc::host_key_mismatch, errc::connect_timeout};
        const auto cause = c->via != 0 && one_in(4) ? errc::jump_failed : causes[below(causes.size())];
        const auto* via = ref_.find(c->via);
        const bool turned_away = cause == errc::jump_failed && via != nullptr && via->retired;
        const bool late = cause == errc::connect_timeout && one_in(2);
        if (late) phases.key_exchange = ms(1, 5);
        const error_info why{make_error(cause), c->to.key(), "login", "no"};
        event("open_failed " + std::to_string(id) + " " + std::string{to_string(cause)}, [&](actions& out) {
            if (!turned_away) ref_.trouble.failed(c->to, cause, late, c->at_risk, c->started, now_);
            again_ = turned_away || (ref_.trouble.expected && ref_.trouble.expected->kind == event_kind::server_busy);
            c->state = conn::gone;
            c->answered = true;
            ++ref_.failures;
            failed_target_ = c->to;
            served_otherwise_ = ref_.count([&](const conn& o) { return o.to == *failed_target_ && ref_.usable(o); }) > 0;
            core_.open_failed(now_, id, why, phases, out);
        });
    }
    void check_expiry(const conn& c) {
        const auto ttl = instant{ref_.params.connection_ttl};
        if (ref_.params.when_full == full_policy::open_unpooled && c.expires == instant::max()) return;  // it may be beside the pool
        if (ttl.count() == 0) {
            if (c.expires != instant::max()) ref_.blame("expires without a TTL");
            return;
        }
        const auto life = static_cast<double>((c.expires - c.created).count()) / static_cast<double>(ttl.count());
        if (life < 1 - ref_.params.ttl_jitter - 1e-6 || life > 1 + ref_.params.ttl_jitter + 1e-6) ref_.blame("the TTL is outside its jitter");
    }
    void answer_close() {
        auto* c = some([](const conn& one) { return one.state == conn::closing; });
        if (c == nullptr) return;
        const auto id = c->id;
        if (!c->answered && one_in(2)) {  // the open that was cut short ends late, one way or another
            c->answered = true;
            return event("late open answer " + std::to_string(id), [&](actions& out) {
                handshake_goes_on_.insert(id);
                core_.opened(now_, id, {}, out);
                core_.open_failed(now_, id, {make_error(errc::cancelled), c->to.key(), "tcp", "cut"}, {}, out);
            });
        }
        event("closed " + std::to_string(id), [&](actions& out) {
            c->state = conn::gone;
            via_goes(*c);
            core_.closed(now_, id, out);
        });
    }
    void answer_probe() {
        auto* c = some([](const conn& one) { return one.probing; });
        if (c == nullptr) return;
        const auto id = c->id;
        const bool lives = !one_in(4);
        const auto heard = std::min(now_ - ms(0, 30), lives ? now_ : c->probed_at);  // whoever speaks without an answer: see core_test
        event(std::string{"probed "} + std::to_string(id) + (lives ? " lives" : " dead"), [&](actions& out) {
            c->probing = false;
            if (lives) c->heard = now_;
            if (lives) c->suspect = false;
            if (!lives) ++ref_.probe_failures;
            if (!lives) c->retired = true;
            core_.probed(now_, id, lives ? error_info{} : error_info{make_error(errc::connection_lost), c->to.key(), "probe", "silent"}, heard, out);
        });
    }
    void lose(conn& c) {
        event("lost " + std::to_string(c.id), [&](actions& out) {
            ref_.retire(c);
            core_.lost(now_, c.id, {make_error(errc::connection_lost, command_fate::unknown), c.to.key(), "command", "reset"}, out);
        });
        if (c.state != conn::closing && c.state != conn::gone) ref_.blame("a lost connection is not closed");
    }
    void cancel() {
        if (last_waiter_ == 0) return;
        const auto id = 1 + below(last_waiter_);
        auto* w = ref_.find_waiter(id);
        const auto before = w->answers;
        event("cancelled " + std::to_string(id), [&](actions& out) { core_.cancelled(now_, id, out); });
        if (before == 0 && ref_.find_waiter(id)->answers != 1) ref_.blame("a cancelled caller got no answer");
    }
    void noise(connection_id id) {  // what the core cannot know any more
        event("noise", [&](actions& out) {
            const error_info dead{make_error(errc::connection_lost), {}, "probe", "silent"};
            core_.released(now_, id, 12345, now_, out);
            core_.released(now_, id + 1000, 1, now_, out);
            core_.closed(now_, id, out);
            core_.closed(now_, id + 1000, out);
            core_.opened(now_, id, {}, out);
            core_.open_failed(now_, id + 1000, dead, {}, out);
            core_.lost(now_, id + 1000, dead, out);
            if (!ref_.find(id)->probing) core_.probed(now_, id, dead, now_, out);
            core_.cancelled(now_, 1'000'000, out);
            core_.discarded(now_, 0, out);
            core_.capacity(now_, 0, 3, out);
        });
    }
    void invalidate() {
        const auto& to = all_targets()[targets_[below(targets_.size())]];
        const auto which = below(10);
        const auto hit = [&](const conn& c) {
            if (which < 5) return c.to.key() == to.key();
            if (which < 9) return c.to.identity() == to.identity();
            return true;
        };
        if (which == 9 && !one_in(3)) return;
        event(std::string{"invalidate "} + (which < 5   ? to.key()
                                            : which < 9 ? "identity " + to.identity()
                                                        : "all"),
              [&](actions& out) {
                  std::vector<connection_id> ids;
                  for (const auto& c : ref_.connections) {
                      if (c.state != conn::gone && hit(c)) ids.push_back(c.id);
                  }
                  for (const auto id : ids) ref_.retire_with_dependents(id);
                  if (which < 5) {
                      ref_.trouble.forget(to.key());
                      ref_.learned.erase(to.key());
                  }
                  if (which == 9) ref_.trouble.setbacks.clear();
                  if (which < 5) {
                      core_.invalidate(now_, to.key(), out);
                  } else if (which < 9) {
                      core_.invalidate_identity(now_, to.identity(), out);
                  } else {
                      core_.close_all(now_, out);
                  }
              });
        for (const auto& c : ref_.connections) {
            if (c.state == conn::open && hit(c) && !c.unpooled && c.leases.empty() && ref_.pins(c) == 0 && !may_be_pinned(c.to))
                ref_.blame("an invalidated idle connection stays open");
            if (c.state == conn::opening && hit(c) && !fresh_ids_.contains(c.id)) ref_.blame("an invalidated connect goes on");
        }
    }
    void keep_warm() {
        std::vector<target> targets;
        for (std::size_t i = 0, n = 1 + below(2); i < n; ++i) targets.push_back(all_targets()[targets_[below(targets_.size())]]);
        if (one_in(3)) {
            const auto key = targets.front().key();
            return event("forget_warm " + key, [&](actions& out) {
                ref_.warm.erase(key);
                core_.forget_warm(now_, key, out);
            });
        }
        event("keep_warm " + targets.front().key() + (targets.size() > 1 ? " " + targets[1].key() : ""), [&](actions& out) {
            if (!ref_.closed) {
                for (const auto& to : targets) ref_.warm.insert_or_assign(to.key(), to);
            }
            core_.keep_warm(now_, targets, out);
        });
    }
    void sleep() {
        const auto slept = ms(1, 400);
        event("suspended for " + in_seconds(slept), [&](actions& out) {
            for (auto& c : ref_.connections) c.suspect = c.suspect || c.state == conn::open;
            core_.suspended(now_, slept, out);
            for (auto& c : ref_.connections) {
                const auto info = core_.info(c.id);
                if (!ref_.usable(c) || !info || c.expires == instant::max()) continue;
                const auto until = info->expires_at.time_since_epoch();
                if (until > c.expires || until <= now_ || (until < c.expires - slept && until > now_ + params().connection_ttl))
                    ref_.blame("sleep changes a TTL wrongly");
                c.expires = until;
            }
        });
    }
    const pool_params& params() const { return ref_.params; }
    void pass_time() {
        const auto next = core_.next_deadline();
        if (next && one_in(3)) {
            now_ = std::max(now_, *next);
        } else {
            now_ += one_in(4) ? ms(0, one_in(10) ? 9000 : 60) : ms(0, 4);
        }
        event("time " + in_seconds(now_), [&](actions& out) { core_.advance(now_, out); });
    }
    /// Shutdown, sometimes in the middle of everything; then the world answers until nothing is left.
    void finish() {
        for (std::size_t round = 0; round < 2000 && ref_.wrong.empty(); ++round) {
            if (round == 0) {
                event("shut_down", [&](actions& out) {
                    ref_.closed = true;
                    ref_.warm.clear();
                    core_.shut_down(now_, out);
                });
                for (const auto& w : ref_.waiters) {
                    if (w.answers != 1) ref_.blame("a waiter survives the shutdown: " + std::to_string(w.id));
                }
            } else if (round == 12 && one_in(2)) {
                event("force", [&](actions& out) {
                    ref_.forced = true;
                    core_.force(now_, out);
                });
                if (ref_.count([](const conn& c) { return c.state == conn::open || c.state == conn::opening; }) > 0) ref_.blame("force leaves a connection");
            } else {
                switch (below(6)) {
                    case 0:
                        release();
                        break;
                    case 1:
                        acquire();
                        break;
                    case 2:
                        pass_time();
                        break;
                    case 3:
                        answer_probe();
                        break;
                    default:
                        answer_close();
                }
            }
            if (core_.empty()) break;
        }
        if (!ref_.wrong.empty()) return;
        if (ref_.count([](const conn&) { return true; }) > 0) return ref_.blame("a connection was forgotten");
        if (!core_.empty()) return ref_.blame("the core is not empty in the end");
        if (ref_.drained != 1) return ref_.blame("drained came " + std::to_string(ref_.drained) + " times");
        if (core_.next_deadline()) return ref_.blame("an empty pool keeps a timer");
        if (core_.stats().connections_closed.total() != core_.stats().connections_created) return ref_.blame("created and closed differ in the end");
        for (const auto& w : ref_.waiters) {
            if (w.answers != 1) return ref_.blame("waiter " + std::to_string(w.id) + " got " + std::to_string(w.answers) + " answers");
        }
    }

    template <class Do>
    void event(const std::string& name, Do do_it);
    void check();
    void check_figures();
    void check_deadlines();
    void check_coverage();
    void check_failures();
    void check_held_up(const seen_waiter& head, bool spill);
    std::size_t planned(const std::string& key) const;
    std::size_t of_key(const std::string& key) const;
    bool may_go(const conn& c) const;
    bool handshakes_reached(const target& to) const;
    void check_warm();
    void check_trouble();
    void check_words();
    bool chain_moves(const target& to) const;
    bool may_be_pinned(const target& to) const;
    void via_goes(const conn& c) {  // the jump host is idle from now on, if this was the last that ran through it
        if (c.via == 0) return;
        auto* via = ref_.find(c.via);
        if (via != nullptr && via->leases.empty() && ref_.pins(*via) == 0) via->idle_since = now_;
    }

    struct mean {
        double value = 0;
        bool known = false;
        void add(instant d) {
            value = known ? value + (static_cast<double>(d.count()) - value) / 8 : static_cast<double>(d.count());
            known = true;
        }
    };
    void hold(const std::string& key, instant d) { holds_[key].add(d); }
    double expected(const std::string& key) {
        const auto& k = key_average_[key];
        return k.known ? k.value : average_.value;
    }
    instant patience() const { return 10 * instant{static_cast<instant::rep>(std::max(average_.value, 1e6))}; }

    choices random_;
    bool logging_;
    std::vector<std::size_t> targets_;
    std::size_t looks_ = 0;
    reference_pool ref_;
    pool_core core_;
    instant now_ = std::chrono::seconds{1};
    waiter_id last_waiter_ = 0;
    std::ostringstream log_;
    mean average_;
    double longest_connect_ = 0;
    std::map<std::string, mean> key_average_, holds_;
    std::map<std::string, instant> last_opened_;
    bool again_ = false;
    std::set<connection_id> handshake_goes_on_, fresh_ids_;
    std::optional<target> failed_target_;
    bool served_otherwise_ = false;
};

}  // namespace core_test

#include "core/history_checks.hpp"  // the definitions
