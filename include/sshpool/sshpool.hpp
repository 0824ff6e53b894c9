#pragma once

// Everything but prometheus.hpp.
#include <sshpool/blocking_ssh_pool.hpp>
#include <sshpool/channel.hpp>
#include <sshpool/command.hpp>
#include <sshpool/connection_info.hpp>
#include <sshpool/credentials.hpp>
#include <sshpool/error.hpp>
#include <sshpool/host_key_policy.hpp>
#include <sshpool/lease.hpp>
#include <sshpool/libssh2_transport.hpp>
#include <sshpool/pool_event.hpp>
#include <sshpool/pool_params.hpp>
#include <sshpool/pool_stats.hpp>
#include <sshpool/ssh_pool.hpp>
#include <sshpool/target.hpp>
#include <sshpool/transfer_options.hpp>
#include <sshpool/transport.hpp>
#include <sshpool/version.hpp>
#include <sshpool/warm_report.hpp>
