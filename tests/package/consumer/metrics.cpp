#include <sshpool/prometheus.hpp>

// Linked, so that what the metrics need is found; a pool that is not there has none.
std::size_t series_of_no_pool() {
    sshpool::pool_metrics metrics{[](std::size_t) { return std::nullopt; }};
    return metrics.Collect().size();
}
