#pragma once

#include <sshpool/sshpool.hpp>

#include <asio/io_context.hpp>

double other_hit_rate(const sshpool::ssh_pool<>& pool);
const std::error_category* other_codes();
