#pragma once

#include <sshpool/detail/pool_driver.hpp>

// How the driver carries out what the core has decided. Included by pool_driver.hpp.

namespace sshpool::detail {

template <class Transport, class Clock>
void pool_driver<Transport, Clock>::perform(act::open& what) {
    try {
        start_open(what);
    } catch (const std::exception& e) {
        const error_info error{make_error(errc::connect_failed), what.to.key(), "tcp", what.to.key() + " could not be opened: " + e.what()};
        forget(what.connection);
        step([&](pool_core& core, instant at, actions& out) { core.open_failed(at, what.connection, error, {}, out); });
    }
}

template <class Transport, class Clock>
void pool_driver<Transport, Clock>::start_open(const act::open& what) {
    const auto id = what.connection;
    auto transport = make_transport_(executor_);
    open_request<Transport> request{what.to,     params_.connect_timeout, params_.spare_channels, params_.reap_grace, std::nullopt,
                                    observe(id), what.learned_leases};
    {
        const std::lock_guard lock{mutex_};
        if (const auto jump = connections_.find(what.via); jump != connections_.end()) request.via = jump->second;
        connections_.emplace(id, transport);
    }
    transport.open(std::move(request), event<open_report>([id](pool_driver& self, const open_report& report) {
                       if (report.error) self.forget(id);
                       self.step([&](pool_core& core, instant at, actions& out) {
                           if (report.error) return core.open_failed(at, id, report.error, report.phases, out);
                           core.opened(at, id, report.phases, out);
                       });
                   }));
}

/// Nothing where memory is out; the connection is then given back.
template <class Transport, class Clock>
std::optional<lease<Transport>> pool_driver<Transport, Clock>::make_lease(const act::grant& granted, Transport& connection) {
    try {
        auto share = std::make_shared<lease_share>(this->shared_from_this(), granted.connection, granted.lease);
        return lease_type{connection.lend(share), std::move(share)};
    } catch (const std::bad_alloc&) {
        step_now([&](pool_core& core, instant at, actions& out) { core.released(at, granted.connection, granted.lease, instant{}, out); });
        return std::nullopt;
    }
}

template <class Transport, class Clock>
error_info pool_driver<Transport, Clock>::out_of_memory(const caller<Transport>& asked) {
    return {std::make_error_code(std::errc::not_enough_memory), asked.where.key(), "waiting", "no memory is left to lend a connection to " + asked.where.key()};
}
/// Of a caller that the core may not have come to know.
template <class Transport, class Clock>
void pool_driver<Transport, Clock>::keep(caller_pointer asked) {
    const auto id = asked->id;
    if (read([&](const pool_core& core) { return core.table().is_waiting(id); })) {
        waiters_.emplace(id, std::move(asked));
    } else {
        answer(*asked, out_of_memory(*asked));
    }
}

template <class Transport, class Clock>
void pool_driver<Transport, Clock>::perform(act::grant& what) {
    auto& connection = connections_.at(what.connection);
    auto granted = make_lease(what, connection);
    if (!granted) return with_waiter(what.waiter, [&](caller<Transport>& asked) { answer(asked, out_of_memory(asked)); });
    const bool died = !connection.is_usable();
    if (!died && !read([&](const pool_core& core) { return core.table().is_unfit(what.connection); })) {
        with_waiter(what.waiter, [&](caller<Transport>& asked) {
            asked.granted = std::move(*granted);
            asked.answered();
        });
        return;
    }
    // It died, or became unfit, since the core decided. The caller keeps its place, for ids order the queue.
    auto* const asked = asking_ != nullptr && asking_->id == what.waiter ? asking_ : waiters_.at(what.waiter).get();
    const auto& key = asked->where.key();
    const auto lost = [&](pool_core& core, instant at, actions& out) {
        core.lost(at, what.connection, {make_error(errc::connection_lost), key, "waiting", "the connection was found dead when it was to be lent"}, out);
    };
    if (died) step(lost);
    granted->release();
    step([&](pool_core& core, instant at, actions& out) {
        if (!asked->cancelled) return core.acquire(at, asked->id, asked->where, asked->deadline, asked->mode, asked->asker, out);
        out.emplace_back(act::fail{asked->id, {make_error(errc::cancelled), key, "waiting", "cancelled while waiting for a connection to " + key}});
    });
}

template <class Transport, class Clock>
void pool_driver<Transport, Clock>::perform(act::fail& what) {
    with_waiter(what.waiter, [&](caller<Transport>& asked) { answer(asked, std::move(what.error)); });
}

template <class Transport, class Clock>
void pool_driver<Transport, Clock>::perform(act::probe& what) {
    const auto id = what.connection;
    if (auto transport = find(id)) {
        transport->probe(params_.probe_timeout, event<error_info>([id](pool_driver& self, const error_info& error) {
                             const auto probed = self.find(id);
                             if (!probed) return;
                             self.step([&](pool_core& core, instant at, actions& out) { core.probed(at, id, error, heard_by(*probed), out); });
                         }));
    }
}

template <class Transport, class Clock>
void pool_driver<Transport, Clock>::perform(act::close& what) {
    const auto id = what.connection;
    auto transport = find(id);
    if (!transport) return step([id](pool_core& core, instant at, actions& out) { core.closed(at, id, out); });  // its open failed at the same moment
    // Keeps the driver until everything has closed: the pool object may be gone by then.
    transport->close([self = this->shared_from_this(), id] {
        self->on_strand([self, id] {
            self->forget(id);
            self->step([id](pool_core& core, instant at, actions& out) { core.closed(at, id, out); });
        });
    });
}

}  // namespace sshpool::detail
