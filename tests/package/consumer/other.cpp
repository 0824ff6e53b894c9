#include "other.hpp"

double other_hit_rate(const sshpool::ssh_pool<>& pool) { return pool.get_stats().hit_rate(); }
const std::error_category* other_codes() { return &sshpool::detail::codes(); }
