#pragma once

#include <sshpool/detail/estimates.hpp>
#include <sshpool/detail/expiring_map.hpp>
#include <sshpool/pool_params.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>

namespace sshpool::detail {

/// What failed, how often in a row, and until when it is not tried again.
struct setback {
    std::size_t failures = 0;
    instant failed{};
    instant until{};
    bool login = false;  ///< it concerns only who asked: the login or the host key
    bool refused = false;
    error_info cause;
    std::string identity;
};

/// Whom a failed connect concerns: everybody who goes to that host the same way, or only those who would log in and trust the same.
enum class concerns { host, login };

/// Who is not tried again yet. Entries vanish with success, with an invalidation, or when nobody has tried again for a while.
class back_off_book {
public:
    /// How long the n-th pause in a row is: it grows up to a bound, and a random part of up to a fifth makes those who failed together come back apart
    /// (gRPC's connection-backoff.md).
    static instant pause(const pool_params& p, std::size_t n, instant first, instant longest) {
        const auto grown = static_cast<double>(first.count()) * std::pow(p.backoff_factor, static_cast<double>(std::min<std::size_t>(n, 1000)) - 1.0);
        return grown < static_cast<double>(longest.count()) ? instant{static_cast<instant::rep>(grown)} : longest;
    }
    static instant pause(const pool_params& p, std::size_t n) { return pause(p, n, p.backoff_initial, p.backoff_max); }
    static instant shortened(instant d, jitter_source& jitter) {
        return std::max(instant{1}, instant{static_cast<instant::rep>(static_cast<double>(d.count()) * (1.0 - 0.2 * std::abs(jitter.draw())))});
    }

    /// What stands against a connect to `to` now, the longer one of two.
    const setback* against(const target& to, instant now) const {
        if (book_.empty()) return nullptr;
        const auto* host = book_.find(host_name(to), now);
        const auto* login = book_.find(login_name(to), now);
        if (host != nullptr && host->until <= now) host = nullptr;
        if (login != nullptr && login->until <= now) login = nullptr;
        if (host == nullptr || login == nullptr) return host != nullptr ? host : login;
        return host->until >= login->until ? host : login;
    }
    const setback& failed(const target& to, concerns whom, bool refused, const error_info& why, const pool_params& p, jitter_source& jitter, instant now) {
        const auto change = [&](setback& s) {
            ++s.failures;
            s.failed = now;
            s.login = whom == concerns::login;
            s.refused = refused;
            s.cause = why;
            s.identity = to.identity();
            auto rest = shortened(pause(p, s.failures), jitter);
            // Never shorter than what was asked for: sshd counts in whole seconds.
            if (refused && p.auth_cooldown.count() > 0)
                rest = std::max(rest, pause(p, s.failures, p.auth_cooldown, std::max<instant>(p.auth_cooldown, longest_cooldown)));
            s.until = now + rest;
        };
        return book_.change(whom == concerns::host ? host_name(to) : login_name(to), now, change,
                            [&](const setback& s) { return s.until + std::max<instant>(s.until - now, p.backoff_max); });
    }
    /// True if something stood against it.
    bool succeeded(const target& to) {
        if (book_.empty()) return false;
        const auto before = book_.size();
        book_.erase(host_name(to));
        book_.erase(login_name(to));
        return book_.size() != before;
    }
    /// Everything of a "user@host:port", its host included.
    void forget(std::string_view key) {
        if (book_.empty()) return;
        book_.erase_all("login " + std::string{key} + '\n');
        book_.erase_all("host " + std::string{endpoint_of(key)} + '\n');
    }
    void clear() { book_.clear(); }
    std::size_t size() const noexcept { return book_.size(); }

    template <class Do>
    void for_each_of(std::string_view key, instant now, Do do_it) const {
        const auto tell = [&](const setback& s) {
            if (s.until > now) do_it(s);
        };
        book_.for_each("host " + std::string{endpoint_of(key)} + '\n', now, tell);
        book_.for_each("login " + std::string{key} + '\n', now, tell);
    }

    static std::string_view endpoint_of(std::string_view key) { return key.substr(key.rfind('@') + 1); }

    static constexpr std::chrono::minutes longest_cooldown{10};  // as long as OpenSSH's longest penalty

private:
    static std::string way(const target& to) { return to.jump() == nullptr ? std::string{} : to.jump()->key() + ' ' + to.jump()->match(); }
    static std::string host_name(const target& to) { return "host " + to.endpoint() + '\n' + way(to); }
    static std::string login_name(const target& to) { return "login " + to.key() + '\n' + to.match() + ' ' + to.credential_digest(); }

    expiring_map<setback> book_;
};

/// An sshd that drops logins before its banner, because it has too many of them under way (MaxStartups).
struct busy_server {
    std::size_t allowed = 0;  ///< handshakes at once: halved by drops, one more with each login that succeeds
    std::size_t drops = 0;    ///< in a row, counting those of one moment once
    instant last_drop = instant::min();
    instant not_before = instant::min();  ///< a pause
};

/// OpenSSH's own books on this machine, kept along so that they never close (sshd_config's PerSourcePenalties, on since 9.8): a refused login costs
/// 5 s, a connection that went away before a login 1 s, which pass by themselves; from 15 s on the whole address is locked out, whoever
/// logs in. So at most two logins that might be refused are under way at a host, and fewer while former ones still count. Credentials that logged in there
/// before are let closer to the limit, so that those never accepted do not keep them out.
class penalty_books {
public:
    static constexpr std::chrono::seconds refusal{5}, no_login{1}, most{10}, most_for_known{13};

    void charge(const std::string& endpoint, instant cost, instant now) {
        books_.change(
            endpoint, now, [&](instant& until) { until = std::max(until, now) + cost; }, [](instant until) { return until; });
    }
    /// From when on one more login may be risked while `under_way` others are; nothing: not before one of these has ended.
    std::optional<instant> free_at(const std::string& endpoint, std::size_t under_way, instant now, instant allowed = most) const {
        const auto risk = refusal * static_cast<std::int64_t>(under_way + 1);
        if (risk > allowed) return std::nullopt;
        const auto* until = books_.empty() ? nullptr : books_.find(endpoint, now);
        return until == nullptr ? now : std::max(now, *until - (allowed - risk));
    }
    /// When nothing counts there any more.
    instant until(const std::string& endpoint, instant now) const {
        const auto* found = books_.find(endpoint, now);
        return found == nullptr ? now : *found;
    }
    std::size_t size() const noexcept { return books_.size(); }

private:
    expiring_map<instant> books_;
};

}  // namespace sshpool::detail
