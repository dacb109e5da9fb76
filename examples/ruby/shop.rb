# Gives Ruby work for each line on stdin, and answers with what Ruby and the program itself have counted so far:
#
#     while sleep 0.2; do echo; done | ruby shop.rb
#
# A line that says "full" has all garbage collected too; "count" just asks.

class SoldOut < StandardError; end

$stdout.sync = true
$raised = Hash.new(0)

def attempt
  yield
rescue StandardError => error
  $raised[error.class.name] += 1
end

def work(line)
  kept = Array.new(20_000) { |i| "order #{i}" }
  GC.start if line.chomp == 'full'
  5.times { attempt { raise SoldOut } }
  3.times { attempt { Integer('seven') } }
  2.times { attempt { kept.fetch(20_000) } }
  attempt { 1 / 0 }
  attempt { nil.price }
end

while (line = $stdin.gets)
  work(line) unless line.chomp == 'count'
  puts({ 'count' => GC.count, **$raised }.map { |name, number| "#{name}=#{number}" }.join('|'))
end
